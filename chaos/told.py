"""What the processes of an engine have told their agent, and what must be in the table for it. Pure, as chaos.checker.

A process's own calls are in order, so the last one says what its part of a room is. Two things explain a failure of a
room that a process has not failed itself: another rank has failed it, or a process ended while it had a part in it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from chaos.history import CallRecord
from chaos.violations import Violation
from redis_kvpoll import KVPoll

CALLS = frozenset({"begin", "advance", "fail", "end", "late"})
FAILED, SUCCESS = int(KVPoll.Failed), int(KVPoll.Success)
ENDS = (None, FAILED, SUCCESS)
"""The statuses of a part that nobody's death changes."""

Parts = Mapping[int, Mapping[int, int]]
"""By room: the status of each rank in the table; nothing for an absent room."""


class Process(NamedTuple):
    """A process at the end of a run."""

    number: int
    rank: int
    statuses: Mapping[int, int] | None
    """Its own statuses, of which the table has all; None: it has ended."""
    leaves_at: float = math.inf
    """When it began to leave. The agent has a second for what it has told since; more than that may be missing."""


def check(calls: Iterable[CallRecord], processes: Collection[Process], table: Parts, shared: int) -> list[Violation]:
    """Return all violations; ``shared`` is the first of the rooms in which all ranks have a part."""
    by_part: defaultdict[tuple[int, int], list[CallRecord]] = defaultdict(list)
    for record in calls:
        if record.name in CALLS:
            by_part[record.worker, record.room].append(record)
    alive = {one.number for one in processes if one.statuses is not None}
    doomed = {room for (number, room), part in by_part.items() if _may_fail(part, number in alive)}
    found: list[Violation] = []
    for process in processes:
        for (number, room), part in by_part.items():
            if number == process.number:
                explained = room >= shared and room in doomed
                found += check_part(process, room, part, table.get(room, {}), explained)
                found += unexplained(process, part, explained)
    return found


def check_part(
    process: Process, room: int, part: list[CallRecord], ranks: Mapping[int, int], explained: bool
) -> list[Violation]:
    """Check what the table has of a room for one process."""
    found = ranks.get(process.rank)
    if process.statuses is None:
        wanted = {FAILED if status not in ENDS else status for status in told(part, process.leaves_at)}
    else:
        wanted = {process.statuses.get(room)}
    if found in wanted or (explained and FAILED in ranks.values()):
        return []
    state = "ended" if process.statuses is None else "lives"
    detail = f"process {process.number}, which {state}, told {wanted}; its part in the table is {found}"
    return [Violation("the table does not have what a process has told", detail, room)]


def unexplained(process: Process, part: list[CallRecord], explained: bool) -> list[Violation]:
    """Return the failures that a living process saw of a room that nothing has failed."""
    if explained:
        return []
    has_failed = False
    for record in part:
        if record.name == "begin":
            has_failed = False
        has_failed = has_failed or record.name == "fail"
        status = record.argument if record.name == "end" else record.answer and record.answer[0]
        if status == FAILED and not has_failed:
            return [Violation("a room of a living process failed", f"process {process.number}: {record}", record.room)]
    room = part[0].room
    if process.statuses and process.statuses.get(room) == FAILED and not has_failed:
        return [Violation("a room of a living process failed", f"process {process.number} in the end", room)]
    return []


def told(part: list[CallRecord], leaves_at: float = math.inf) -> set[int | None]:
    """Return the statuses that a process may have told of its part: the last that it gave its agent, and later ones."""
    known: set[int | None] = {None}
    for record in part:
        if record.ended == math.inf:  # it was killed in this call
            known |= {None if record.name == "end" else record.argument}
        else:
            status, is_sent = record.answer
            known = {status} if is_sent and record.ended < leaves_at else {*known, status}
    return known


def _may_fail(part: list[CallRecord], is_alive: bool) -> bool:
    """Whether a process may have failed a room, itself or by its end."""
    has_part = not is_alive and any(status not in ENDS for status in told(part))
    return has_part or any(record.name == "fail" for record in part)
