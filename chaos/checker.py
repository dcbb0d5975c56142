"""Whether a history shows what must never happen. Pure; tests hold it against histories that are wrong.

Two looks at a room are compared only when the first had ended before the second began, and only if nothing that could
explain the difference was under way between the first one's begin and the second one's end. What broke connections or
stopped a server may have left a copy of a call on its way, which is carried out later than the call's own end: a call
that met such a fault counts as never ended.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from chaos import fenced, rules
from chaos.history import Done, Fault, History
from chaos.violations import Span, Violation
from redis_kvpoll.engine.tracked_rooms import CREATOR_TIMEOUT

SLACK = 2.5
"""Seconds beyond the deadline: one for a thread that hangs (see StatusStore), the rest for a machine that is busy."""
EARLY = 0.5
"""Seconds before the deadline at which a call may give up: its next pause would have been longer than what is left."""
EXPECTED = {
    "wait": ("WaitTimeoutError", "RoomNotFoundError"),
    "open": ("RoomBusyError",),
    "attach": ("RoomNotFoundError",),
}
"""The errors that answer a call."""


class Look(NamedTuple):
    """Where a room was, at some moment within a time."""

    place: int
    done: Done


class Cause(NamedTuple):
    """Something that may have changed a room; a call, or a fault."""

    span: Span
    done: Done | None = None


def check(
    history: History, refusals: Sequence[str] = (), shard: Callable[[int], object] = lambda room: None
) -> list[Violation]:
    """All that is wrong with a history. ``refusals`` are words of the refusals that its faults explain, and ``shard``
    says where a room is."""
    found: list[Violation] = []
    by_room: defaultdict[int, list[Done]] = defaultdict(list)
    for done in history.calls:
        by_room[done.room].append(done)
        if wrong := rules.misfit(done):
            found.append(Violation("an answer that no rule gives", f"{wrong}: {done}"))
    losses = [Span(fault.began, fault.ended) for fault in history.faults if fault.loses]
    returns = [Span(fault.began, fault.ended) for fault in history.faults if fault.loses == "latest"]
    late = late_copies(history.faults)
    for of_room in by_room.values():
        found += goes_back(of_room, losses, late)
        found += comes_back(of_room, returns, late)
    found += fenced.check(history.calls, history.faults, late, shard)
    found += wrong_errors(history, refusals)
    found += waits_too_long(history)
    return found


def late_copies(faults: Iterable[Fault]) -> Callable[[Done], Span]:
    """Gives the time within which a call may have been carried out."""
    spans = sorted(Span(fault.began, fault.ended) for fault in faults if fault.worker is None)
    begins = [span.began for span in spans]

    def span(done: Done) -> Span:
        met = any(done.began < spans[at].ended for at in range(bisect_right(begins, done.ended)))
        return Span(done.began, math.inf if met or done.error else done.ended)

    return span


def goes_back(of_room: list[Done], losses: list[Span], span: Callable[[Done], Span]) -> list[Violation]:
    """A room that is behind where it was before, though nobody may have cleared it and nothing was lost."""
    removals = [Cause(span(done), done) for done in of_room if rules.may_remove(done)]
    removals += [Cause(loss) for loss in losses]
    afters = [Look(at, done) for done in of_room if (at := rules.place_after(done)) is not None]
    befores = [Look(at, done) for done in of_room if (at := rules.place_before(done)) is not None]
    seconds = befores + [look for look in afters if look.done.name not in rules.CLEARS]
    return [
        Violation("a room went back", f"from {first.done} to {second.done}", first.done.room)
        for first, second in _pairs(afters, seconds, removals)
        if second.place < first.place
    ]


def comes_back(of_room: list[Done], returns: list[Span], span: Callable[[Done], Span]) -> list[Violation]:
    """A room that was absent, and is there again though nobody may have made it."""
    creations = [Cause(span(done)) for done in of_room if rules.may_create(done)] + [Cause(back) for back in returns]
    absent = [Look(rules.ABSENT, done) for done in of_room if rules.place_after(done) == rules.ABSENT]
    present = [Look(at, done) for done in of_room if (at := rules.place_before(done) or rules.place_after(done))]
    return [
        Violation("a room came back", f"after {first.done}, {second.done}", first.done.room)
        for first, second in _pairs(absent, present, creations)
    ]


def _pairs(firsts: list[Look], seconds: list[Look], between: list[Cause]) -> Iterator[tuple[Look, Look]]:
    """For each second look, the one before it that had got furthest, with none of ``between`` between the two."""
    for second in seconds:
        causes = [cause.span for cause in between if cause.done is not second.done or cause.done is None]
        since = max((span.ended for span in causes if span.began <= second.done.ended), default=-math.inf)
        known = [first for first in firsts if first.done.ended < second.done.began and first.done.began > since]
        if known:
            yield max(known, key=lambda look: look.place), second


def wrong_errors(history: History, refusals: Sequence[str]) -> list[Violation]:
    """Errors that nobody documented, and those that no fault explains."""
    found: dict[tuple[int, float], Violation] = {}
    for done in history.calls:
        if done.error and (why := _unexplained(done, history, refusals)):
            found[done.worker, done.began] = Violation(why, str(done), done.room)  # one for all rooms of a batch
    return list(found.values())


def _unexplained(done: Done, history: History, refusals: Sequence[str]) -> str:
    kind = failure(done)
    if not kind:
        return ""
    if kind == "ServerRefusedError":
        return "" if any(word in done.error for word in refusals) else "a refusal that nobody arranged"
    if kind == "OutcomeUnknownError":
        met = overlap(done, history.faults) > 0
        return "" if met and done.name in rules.CLEARS else "an outcome is unknown for no reason"
    if kind == "LeaseLostError":
        hurt = any(fault.worker == done.worker and fault.began < done.ended for fault in history.faults)
        return "" if hurt else "a living owner lost its lease"
    if kind != "StoreUnavailableError":
        return "an exception that nobody documented"
    if done.ended - done.began < history.deadline - EARLY:
        return "a call gave up before its deadline"
    if done.name in fenced.NAMES and any(_may_wait_for_opener(done, fault) for fault in history.faults):
        return ""  # most of its time may have gone by in that
    outages = [fault for fault in history.faults if fault.outage or fault.worker == done.worker]
    return "" if overlap(done, outages) > history.deadline / 2 else "a call failed for a fault that it should outlive"


def _may_wait_for_opener(done: Done, fault: Fault) -> bool:
    """Whether it may have been the call of a guest, whose room was to come back by its opener."""
    return fault.anew and fault.began < done.ended and fault.ended + CREATOR_TIMEOUT > done.began


def failure(done: Done) -> str:
    """The class of the error that a call ended with instead of an answer; empty if it got one, or was killed."""
    kind = done.error.partition(":")[0]
    return "" if kind in EXPECTED.get(done.name, ()) else kind


def overlap(done: Done, faults: Iterable[Fault]) -> float:
    """Seconds of a call in which one of these faults lasted, in sum, of those that hit its worker or everybody."""
    hit = (fault for fault in faults if fault.worker in (None, done.worker))
    return sum(max(0.0, min(done.ended, fault.ended) - max(done.began, fault.began)) for fault in hit)


def waited(done: Done, faults: Iterable[Fault]) -> float:
    """Seconds for which a call kept its caller, without those in which that was stopped itself."""
    if done.ended == math.inf or done.name == "mirror":
        return 0.0
    return done.ended - done.began - overlap(done, [fault for fault in faults if fault.worker == done.worker])


def waits_too_long(history: History) -> list[Violation]:
    """Calls that kept their callers beyond the deadline."""
    late = {}
    for done in history.calls:
        limit = history.deadline + SLACK + (done.argument if done.name == "wait" else 0.0)
        if done.ended - done.began > limit and waited(done, history.faults) > limit:
            late[done.worker, done.began] = Violation("a caller waited too long", str(done))
    return list(late.values())


def longest_wait(history: History) -> float:
    """Seconds; of waits, what they took beyond what they were given."""
    return max(
        (waited(done, history.faults) - (done.argument if done.name == "wait" else 0.0) for done in history.calls),
        default=0.0,
    )


def check_end(
    table: Mapping[int, int | None],
    copies: Mapping[int, Mapping[int, int | None] | None],
    ttls: Mapping[str, int],
    most: float,
) -> list[Violation]:
    """What is wrong when all is quiet: with workers' local copies, and with TTLs (milliseconds; a room's ``most`` is in
    seconds)."""
    found = []
    for worker, copy in copies.items():
        if copy is None:
            found.append(Violation("a mirror does not get to be current", f"worker {worker}"))
        elif wrong := {room: (status, table[room]) for room, status in copy.items() if status != table[room]}:
            found.append(Violation("a mirror is not what the table is", f"worker {worker}: {wrong}"))
    for key, ttl in ttls.items():
        if ttl <= 0 or (":room:" in key and ttl > most * 1000):
            found.append(Violation("a key has no TTL, or too long a one", f"{key}: {ttl} ms"))
    return found
