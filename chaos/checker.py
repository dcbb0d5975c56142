"""Checks a history for what must never happen. Pure; tests run it on histories that are wrong.

Two observations of a room are compared only if the first call had ended before the second began, and only if nothing
that could explain the difference ran between the first one's begin and the second one's end.

A fault that broke connections or stopped a server may have left a copy of a call on its way; the server may execute it
after the call's own end. So a call that met such a fault counts as never ended.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from chaos import fenced, followed, rules
from chaos.history import CallRecord, FaultEvent, History
from chaos.violations import Observation, Span, Violation
from redis_kvpoll.engine.recovery.tracked_rooms import CREATOR_TIMEOUT

SLACK = 2.5
"""Seconds beyond the deadline: one for a thread that hangs (see StatusStore), the rest for a busy machine."""
EARLY = 0.5
"""Seconds before the deadline at which a call may give up: its next pause would have been longer than what is left."""
EXPECTED = {
    "wait": ("WaitTimeoutError", "RoomNotFoundError"),
    "open": ("RoomBusyError",),
    "claim": ("RoomBusyError",),
    "attach": ("RoomNotFoundError",),
    fenced.AWAIT: ("WaitTimeoutError", "RoomNotFoundError"),
}
"""The errors that are a call's answer."""
WAITS = frozenset({"wait", fenced.AWAIT})
"""The calls whose argument is a timeout in seconds."""


class Cause(NamedTuple):
    """A call that may have changed a room, and the time within which it may have been executed."""

    span: Span
    record: CallRecord | None = None


def check(
    history: History, refusals: Sequence[str] = (), shard: Callable[[int], object] = lambda room: None
) -> list[Violation]:
    """All violations in a history.

    Args:
        refusals: words of the server's refusals that the injected faults explain.
        shard: the shard that a room belongs to.
    """
    found: list[Violation] = []
    by_room: defaultdict[int, list[CallRecord]] = defaultdict(list)
    for record in history.calls:
        by_room[record.room].append(record)
        if wrong := rules.invalid_answer(record):
            found.append(Violation("an invalid answer", f"{wrong}: {record}"))
    losses = [fault for fault in history.faults if fault.loses]
    rollbacks = [fault for fault in losses if fault.loses == "latest"]
    execution = delayed_executions(history.faults)
    for of_room in by_room.values():
        found += goes_back(of_room, losses, execution)
        found += comes_back(of_room, rollbacks, execution)
    found += fenced.check(history.calls, history.faults, execution, shard)
    found += followed.check(history.calls, history.faults, execution)
    found += wrong_errors(history, refusals)
    found += needless_failures(history)
    found += overlong_calls(history)
    return found


def delayed_executions(faults: Iterable[FaultEvent]) -> Callable[[CallRecord], Span]:
    """A function that gives the time within which the server may have executed a call."""
    spans = sorted(Span(fault.began, fault.ended) for fault in faults if fault.worker is None)
    begins = [span.began for span in spans]

    def execution(record: CallRecord) -> Span:
        met = any(record.began < spans[at].ended for at in range(bisect_right(begins, record.ended)))
        return Span(record.began, math.inf if met or record.error else record.ended)

    return execution


def goes_back(
    of_room: list[CallRecord], losses: list[FaultEvent], execution: Callable[[CallRecord], Span]
) -> list[Violation]:
    """Observations of a room behind an earlier one, with no clear and no data loss to explain it."""
    removals = [Cause(execution(record), record) for record in of_room if rules.may_remove(record)]
    afters = [Observation(at, record) for record in of_room if (at := rules.place_after(record)) is not None]
    befores = [Observation(at, record) for record in of_room if (at := rules.place_before(record)) is not None]
    seconds = befores + [after for after in afters if after.record.name not in rules.CLEARS]
    return [
        Violation("a room went back", f"from {first.record} to {second.record}", first.record.room)
        for first, second in _pairs(afters, seconds, removals, losses)
        if second.place < first.place
    ]


def comes_back(
    of_room: list[CallRecord], rollbacks: list[FaultEvent], execution: Callable[[CallRecord], Span]
) -> list[Violation]:
    """Observations of a room that was absent before, with no creation to explain it."""
    creations = [Cause(execution(record)) for record in of_room if rules.may_create(record)]
    absent = [Observation(rules.ABSENT, record) for record in of_room if rules.place_after(record) == rules.ABSENT]
    present = [
        Observation(at, record) for record in of_room if (at := rules.place_before(record) or rules.place_after(record))
    ]
    return [
        Violation("a room came back", f"after {first.record}, {second.record}", first.record.room)
        for first, second in _pairs(absent, present, creations, rollbacks)
    ]


def _pairs(
    firsts: list[Observation], seconds: list[Observation], between: list[Cause], losses: list[FaultEvent]
) -> Iterator[tuple[Observation, Observation]]:
    """Each second observation with the furthest earlier one that no cause or loss separates from it."""
    for second in seconds:
        causes = [cause.span for cause in between if cause.record is not second.record or cause.record is None]
        since = max((span.ended for span in causes if span.began <= second.record.ended), default=-math.inf)
        met = [loss for loss in losses if loss.began <= second.record.ended]
        earlier = [
            one
            for one in firsts
            if one.record.ended < second.record.began
            and one.record.began > since
            and all(loss.ended < one.record.began or loss.spares(one.record) for loss in met)
        ]
        if earlier:
            yield max(earlier, key=lambda one: one.place), second


def wrong_errors(history: History, refusals: Sequence[str]) -> list[Violation]:
    """Errors that are not documented, or that no fault explains."""
    found: dict[tuple[int, float], Violation] = {}
    for record in history.calls:
        if record.error and (why := _unexplained(record, history, refusals)):
            found[record.worker, record.began] = Violation(why, str(record), record.room)  # one for a whole batch
    return list(found.values())


def needless_failures(history: History) -> list[Violation]:
    """Calls that gave up at a time when no call of the plain client did, or nearly did."""
    failed = [record for record in history.calls if failure(record) == "StoreUnavailableError"]
    found: dict[tuple[int, float], Violation] = {}
    for record in failed:
        beside = [one for one in history.plain if one.began < record.ended and one.ended > record.began]
        succeeded = any(one.began >= record.began and one.ended <= record.ended for one in beside)
        if succeeded and not any(one.error or one.ended - one.began > history.deadline - 2 * EARLY for one in beside):
            why = "a call gave up where a plain client did not"
            found[record.worker, record.began] = Violation(why, str(record), record.room)
    return list(found.values())


def _unexplained(record: CallRecord, history: History, refusals: Sequence[str]) -> str:
    kind = failure(record)
    if not kind:
        return ""
    if kind == "ServerRefusedError":
        return "" if any(word in record.error for word in refusals) else "an unexplained refusal"
    if kind == "OutcomeUnknownError":
        # Which server a connection led to may be noticed a moment after a failover is over.
        met = any(fault.ended + SLACK > record.began for fault in hits(record, history.faults))
        return "" if met and record.name in rules.CLEARS else "an unexplained unknown outcome"
    if kind == "LeaseLostError":
        hit = any(fault.worker == record.worker and fault.began < record.ended for fault in history.faults)
        return "" if hit else "a live owner lost its lease"
    if kind != "StoreUnavailableError":
        return "an undocumented exception"
    if record.ended - record.began < history.deadline - EARLY:
        return "a call gave up before its deadline"
    if record.name in fenced.NAMES and any(_may_wait_for_creator(record, fault) for fault in history.faults):
        return ""  # most of its time may have passed in that
    outages = [fault for fault in history.faults if fault.outage or fault.worker == record.worker]
    long_enough = overlap(record, outages) > history.deadline / 2
    return "" if long_enough else "a call failed in a fault that it should survive"


def _may_wait_for_creator(record: CallRecord, fault: FaultEvent) -> bool:
    """Whether the call may have waited for a room's creator to replay the room."""
    return fault.triggers_recovery and fault.began < record.ended and fault.ended + CREATOR_TIMEOUT > record.began


def failure(record: CallRecord) -> str:
    """The class of the error that a call ended with instead of an answer; empty for an answer, or a killed caller."""
    kind = record.error.partition(":")[0]
    return "" if kind in EXPECTED.get(record.name, ()) else kind


def overlap(record: CallRecord, faults: Iterable[FaultEvent]) -> float:
    """Seconds of a call during which faults that hit its worker or everybody lasted, in sum."""
    return sum(
        max(0.0, min(record.ended, fault.ended) - max(record.began, fault.began)) for fault in hits(record, faults)
    )


def hits(record: CallRecord, faults: Iterable[FaultEvent]) -> Iterator[FaultEvent]:
    """The faults that hit a call's worker or everybody, and began before its end."""
    return (fault for fault in faults if fault.worker in (None, record.worker) and fault.began < record.ended)


def waited(record: CallRecord, faults: Iterable[FaultEvent]) -> float:
    """Seconds that a caller waited for a call, without those in which the caller itself was stopped."""
    if record.ended == math.inf or record.name == "mirror":
        return 0.0
    return record.ended - record.began - overlap(record, [fault for fault in faults if fault.worker == record.worker])


def overlong_calls(history: History) -> list[Violation]:
    """Calls that took longer than the deadline allows."""
    late = {}
    for record in history.calls:
        limit = history.deadline + SLACK + (record.argument if record.name in WAITS else 0.0)
        if record.ended - record.began > limit and waited(record, history.faults) > limit:
            late[record.worker, record.began] = Violation("a caller waited too long", str(record))
    return list(late.values())


def longest_wait(history: History) -> float:
    """The longest call in seconds; of a ``wait``, only the time beyond its timeout."""
    return max(
        (
            waited(record, history.faults) - (record.argument if record.name in WAITS else 0.0)
            for record in history.calls
        ),
        default=0.0,
    )


def check_end(
    table: Mapping[int, int | None],
    copies: Mapping[str, Mapping[int, int | None] | None],
    ttls: Mapping[str, int],
    max_ttl: float,
) -> list[Violation]:
    """Violations in the final state, after all calls have ended.

    Args:
        table: the status of every room.
        copies: each worker's mirror; None: it did not become synced.
        ttls: milliseconds that each key has left.
        max_ttl: the longest TTL of a room, in seconds.
    """
    found = []
    for worker, copy in copies.items():
        if copy is None:
            found.append(Violation("a mirror did not become synced", f"worker {worker}"))
        elif wrong := {room: (status, table[room]) for room, status in copy.items() if status != table[room]}:
            found.append(Violation("a mirror differs from the table", f"worker {worker}: {wrong}"))
    for key, ttl in ttls.items():
        if ttl <= 0 or (":room:" in key and ttl > max_ttl * 1000):
            found.append(Violation("a key has no TTL, or too long a one", f"{key}: {ttl} ms"))
    return found
