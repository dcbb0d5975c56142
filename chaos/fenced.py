"""Checks what no history of handles may show: rooms that were opened, written through generations, and cleared. Pure.

An observation here is of one generation of a room: how far it had got, or that it had ended. Data that a server lost
must be there again after recovery, so only the observations within the recovery time are left out. A call that may be
executed after its end (see checker) explains what it could have done.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from chaos import rules
from chaos.history import OBSERVER, CallRecord, FaultEvent
from chaos.violations import Observation, Span, Violation
from redis_kvpoll import KVPoll, Outcome

RECOVERY_SECONDS = 2.0
"""Seconds after a server's return within which its rooms are there again, and after a lease's expiry within which its
rooms are failed."""
LOST = re.compile(r"owner .* lost")
OPENS = frozenset({"open", "attach"})
WRITES = frozenset({"write", "fail"})
NAMES = OPENS | WRITES | {"release", "status", "entry"}
LOCAL = frozenset({"mirror", "wait"})
"""The calls that a local copy answers."""
ENDED, PRESENT = 0, 0.5
"""The places of a generation that is no longer the room's, and of one that is, at an unknown status."""


class Absence(NamedTuple):
    """The time in which a generation may be missing, because its creators have not replayed it yet."""

    fault: FaultEvent
    span: Span


def check(
    calls: Iterable[CallRecord],
    faults: list[FaultEvent],
    execution: Callable[[CallRecord], Span],
    shard: Callable[[int], object],
) -> list[Violation]:
    """All violations in the fenced part of a history.

    Args:
        execution: the time within which the server may have executed a call.
        shard: the shard that a room belongs to.
    """
    found: list[Violation] = []
    rooms: defaultdict[int, list[CallRecord]] = defaultdict(list)
    answered: defaultdict[tuple[int, object], list[CallRecord]] = defaultdict(list)
    for record in calls:
        if record.name in NAMES:
            rooms[record.room].append(record)
        if not record.error and record.ended < math.inf and record.name not in LOCAL:
            answered[record.worker, shard(record.room)].append(record)
    for room, of_room in rooms.items():
        found += shared_generations(of_room)
        for generation in sorted({record.generation for record in of_room} - {""}):
            by_creator = [answered[creator, shard(room)] for creator in sorted(_creators(generation, of_room))]
            absences = [
                Absence(fault, Span(fault.began, _recovered_at(fault, by_creator)))
                for fault in faults
                if fault.triggers_recovery
            ]
            undisturbed = [record for record in of_room if not _is_disturbed(record, absences)]
            found += goes_back(generation, of_room, undisturbed, faults, absences, execution)
            found += comes_back(generation, undisturbed, faults, absences)
    return found


def _creators(generation: str, of_room: list[CallRecord]) -> set[int]:
    return {record.worker for record in of_room if record.name == "open" and record.generation == generation}


def _recovered_at(fault: FaultEvent, by_creator: list[list[CallRecord]]) -> float:
    """When every creator has replayed its rooms: a store does so before its first call after the fault ends."""
    firsts = [
        min((record.ended for record in calls if record.began >= fault.ended), default=0.0) for calls in by_creator
    ]
    return max([fault.ended + RECOVERY_SECONDS, *firsts])


def shared_generations(of_room: list[CallRecord]) -> list[Violation]:
    """Generations that two requests got."""
    first: dict[str, CallRecord] = {}
    named = [record for record in of_room if record.generation and record.request]
    return [
        Violation("two requests share a generation", f"{first[record.generation]} and {record}")
        for record in named
        if first.setdefault(record.generation, record).request != record.request
    ]


def goes_back(
    generation: str,
    of_room: list[CallRecord],
    undisturbed: list[CallRecord],
    faults: list[FaultEvent],
    absences: list[Absence],
    execution: Callable[[CallRecord], Span],
) -> list[Violation]:
    """Observations of a generation behind an earlier one, or of its end, with no clear to explain it."""
    ends = [execution(call) for call in of_room if call.name == "release" and call.generation in ("", generation)]
    reopenings = [execution(call) for call in of_room if call.name == "open" and call.generation != generation]
    failures = _failures(generation, of_room, faults, execution)
    found = []
    for first, second in _pairs(list(_observations(generation, undisturbed)), _rollbacks(faults)):
        if second.place >= first.place or second.place == PRESENT:
            continue
        between = Span(first.record.began, second.record.ended)
        if second.place == ENDED and _any_met(ends, between):
            continue
        if second.place != ENDED and _any_met(ends + reopenings, between) and _may_be_undone(between, absences):
            continue  # it had ended, and its creator knew neither that nor what came before
        if second.place == ENDED and _any_met(reopenings, between):
            while_lost = any(absence.fault.loses and _any_met(reopenings, absence.span) for absence in absences)
            # A room that failed long before is also observed as present.
            since = Span(-math.inf, between.ended) if first.place == PRESENT else between
            if first.place != rules.FAILED and not _any_met(failures, since) and not while_lost:
                found.append(_violation("a live room was reassigned", first, second))
            continue
        found.append(_violation("a generation went back", first, second))
    return found


def _violation(rule: str, first: Observation, second: Observation) -> Violation:
    return Violation(rule, f"from {first.record} to {second.record}", first.record.room)


def _rollbacks(faults: list[FaultEvent]) -> list[Span]:
    return [Span(fault.began, fault.ended) for fault in faults if fault.loses == "latest"]


def comes_back(
    generation: str, undisturbed: list[CallRecord], faults: list[FaultEvent], absences: list[Absence]
) -> list[Violation]:
    """Observations of a generation that had ended before."""
    of_generation = [record for record in undisturbed if record.generation == generation]
    found = []
    for first, second in _pairs(list(_observations(generation, undisturbed)), _rollbacks(faults)):
        if first.place != ENDED or second.place == ENDED:
            continue
        # A live creator that has not seen a clear may undo it: docs/guarantees.md.
        informed = {call.worker for call in of_generation if _saw_end(call) and call.began < second.record.ended}
        uninformed = _creators(generation, of_generation) - informed
        if not (uninformed and _may_be_undone(Span(first.record.began, second.record.ended), absences)):
            found.append(_violation("a generation came back", first, second))
    return found


def outlived_leases(calls: Iterable[CallRecord], killed: Mapping[str, float], lease: float) -> list[Violation]:
    """Rooms that the observer found live too long after their owner was killed.

    Args:
        killed: when each killed owner was killed.
        lease: the TTL of the leases in seconds.
    """
    found = []
    for record in _entries(calls):
        owner, status, _ = record.answer
        late = record.began - killed.get(owner, math.inf) - lease - RECOVERY_SECONDS
        if late > 0 and not KVPoll(status).is_terminal:
            found.append(Violation("a dead owner's room is still live", f"{late:.1f} s too long: {record}"))
    return found


def false_expiries(calls: Iterable[CallRecord], hit: Collection[str]) -> list[Violation]:
    """Rooms that failed because their owner was lost, though no fault hit that owner."""
    found = []
    for record in _entries(calls):
        owner, status, reason = record.answer
        if owner not in hit and KVPoll(status) is KVPoll.Failed and LOST.fullmatch(reason or ""):
            found.append(Violation("a live owner's room was failed", str(record)))
    return found


def _entries(calls: Iterable[CallRecord]) -> Iterator[CallRecord]:
    """The observer's reads of rooms that have an owner."""
    return (one for one in calls if one.worker == OBSERVER and one.name == "entry" and one.answer and one.answer[0])


def _failures(
    generation: str, of_room: list[CallRecord], faults: list[FaultEvent], execution: Callable[[CallRecord], Span]
) -> list[Span]:
    """The times within which a generation may have failed: by a call, or because its owner was stopped or killed."""
    fails = [
        execution(record)
        for record in of_room
        if record.generation == generation and record.name in WRITES and record.argument == KVPoll.Failed
    ]
    creators = _creators(generation, of_room)
    return fails + [Span(fault.began, math.inf) for fault in faults if fault.worker in creators]


def _observations(generation: str, undisturbed: list[CallRecord]) -> Iterator[Observation]:
    """The observations of a generation. Before its first call has ended, another generation does not end it."""
    begun = min(
        (record.ended for record in undisturbed if record.generation == generation and not record.error),
        default=math.inf,
    )
    for record in undisturbed:
        if record.error or record.ended == math.inf:
            continue
        if record.generation == generation:
            yield Observation(_place(record), record)
        elif record.name in OPENS | {"entry"} and record.began > begun:
            yield Observation(ENDED, record)


def _place(record: CallRecord) -> float:
    """How far the generation of a call had got, after what the call did."""
    if record.name in OPENS:
        return PRESENT
    if record.name == "release" or record.answer is None or record.answer[0] == Outcome.STALE.name:
        return ENDED
    return rules.place(record.answer[1])


def _may_be_undone(between: Span, absences: list[Absence]) -> bool:
    """Whether a creator that has not seen a clear may have replayed its last known state over it."""
    return any(_any_met([absence.span], between) for absence in absences)


def _saw_end(record: CallRecord) -> bool:
    """Whether the call's answer showed that the generation had ended."""
    return not record.error and record.ended < math.inf and _place(record) == ENDED


def _pairs(observations: list[Observation], between: list[Span]) -> Iterator[tuple[Observation, Observation]]:
    """Each observation with two earlier ones: the furthest, and one that saw the end."""
    for second in observations:
        since = max((span.ended for span in between if span.began <= second.record.ended), default=-math.inf)
        earlier = [one for one in observations if one.record.ended < second.record.began and one.record.began > since]
        if earlier:
            yield max(earlier, key=lambda one: one.place), second
            if (lowest := min(earlier, key=lambda one: one.place)).place == ENDED:
                yield lowest, second


def _is_disturbed(record: CallRecord, absences: list[Absence]) -> bool:
    """Whether a call ran while data was lost and not yet recovered."""
    span = Span(record.began, record.ended)
    return any(absence.fault.loses and _any_met([span], absence.span) for absence in absences)


def _any_met(spans: list[Span], between: Span) -> bool:
    return any(span.began <= between.ended and span.ended >= between.began for span in spans)
