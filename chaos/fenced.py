"""What no history of handles may show: rooms that were opened, written through generations, and cleared. Pure.

Here a look is at one generation of a room: how far it has got, or that it is over. What a server lost is to be there
again, so only looks within the time that the owners have for that are left out. A call that may still be carried out
later than its end (see checker) explains what it could have done.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from chaos import rules
from chaos.history import JUDGE, Done, Fault
from chaos.violations import Span, Violation
from redis_kvpoll import KVPoll, Outcome

RESTORED = 2.0
"""Seconds after a server's return in which its rooms are there again, and after a lease's end in which its rooms are
seen to be lost."""
LOST = re.compile(r"owner .* lost")
OPENS = frozenset({"open", "attach"})
WRITES = frozenset({"write", "fail"})
NAMES = OPENS | WRITES | {"release", "look", "entry"}
NOT_ASKED = frozenset({"mirror", "wait"})
"""What is answered by a local copy."""
OVER, SOMEWHERE = 0, 0.5
"""The places of a generation that is no longer the room's, and of one that is, at a status that nobody says."""


class Look(NamedTuple):
    """Where a generation was, at some moment of a call."""

    place: float
    done: Done


class Absence(NamedTuple):
    """The time in which a generation may not be there, since its openers have not said it again yet."""

    fault: Fault
    span: Span


def check(
    calls: Iterable[Done], faults: list[Fault], span: Callable[[Done], Span], shard: Callable[[int], object]
) -> list[Violation]:
    """All that is wrong with the fenced part of a history. ``span`` says when a call may have been carried out."""
    found: list[Violation] = []
    rooms: defaultdict[int, list[Done]] = defaultdict(list)
    answered: defaultdict[tuple[int, object], list[Done]] = defaultdict(list)
    for done in calls:
        if done.name in NAMES:
            rooms[done.room].append(done)
        if not done.error and done.ended < math.inf and done.name not in NOT_ASKED:
            answered[done.worker, shard(done.room)].append(done)
    for room, of_room in rooms.items():
        found += shared_generations(of_room)
        for generation in sorted({done.generation for done in of_room} - {""}):
            openers = {done.worker for done in of_room if done.name == "open" and done.generation == generation}
            theirs = [answered[opener, shard(room)] for opener in sorted(openers)]
            absences = [Absence(fault, Span(fault.began, _restored(fault, theirs))) for fault in faults if fault.anew]
            calm = [done for done in of_room if not _is_disturbed(done, absences)]
            found += goes_back(generation, of_room, calm, faults, absences, span)
            found += comes_back(generation, calm, faults, absences)
    return found


def _restored(fault: Fault, openers: list[list[Done]]) -> float:
    """When each of these has said again what it holds: that goes before the first call that it makes thereafter."""
    firsts = [min((done.ended for done in calls if done.began >= fault.ended), default=0.0) for calls in openers]
    return max([fault.ended + RESTORED, *firsts])


def shared_generations(of_room: list[Done]) -> list[Violation]:
    """A generation that two requests have."""
    first: dict[str, Done] = {}
    named = [done for done in of_room if done.generation and done.request]
    return [
        Violation("two requests share a generation", f"{first[done.generation]} and {done}")
        for done in named
        if first.setdefault(done.generation, done).request != done.request
    ]


def goes_back(
    generation: str,
    of_room: list[Done],
    calm: list[Done],
    faults: list[Fault],
    absences: list[Absence],
    span: Callable[[Done], Span],
) -> list[Violation]:
    """A generation that is behind where it was, or gone though nobody may have cleared it."""
    ends = [span(done) for done in of_room if done.name == "release" and done.generation in ("", generation)]
    rollbacks = [Span(fault.began, fault.ended) for fault in faults if fault.loses == "latest"]
    renewals = [span(done) for done in of_room if done.name == "open" and done.generation != generation]
    failures = _failures(generation, of_room, faults, span)
    found = []
    for first, second in _pairs(list(_looks(generation, calm)), rollbacks):
        if second.place >= first.place or second.place == SOMEWHERE:
            continue
        between = Span(first.done.began, second.done.ended)
        if second.place == OVER and _any_met(ends, between):
            continue
        if second.place != OVER and _any_met(ends + renewals, between) and _undone(between, absences):
            continue  # it was over, and its opener knows neither that nor what came before
        if second.place == OVER and _any_met(renewals, between):
            while_lost = any(absence.fault.loses and _any_met(renewals, absence.span) for absence in absences)
            # That it is somewhere, one also hears of a room that failed long before.
            since = Span(-math.inf, between.ended) if first.place == SOMEWHERE else between
            if first.place != rules.FAILED and not _any_met(failures, since) and not while_lost:
                found.append(
                    Violation("a living room was given away", f"from {first.done} to {second.done}", first.done.room)
                )
            continue
        found.append(Violation("a generation went back", f"from {first.done} to {second.done}", first.done.room))
    return found


def comes_back(generation: str, calm: list[Done], faults: list[Fault], absences: list[Absence]) -> list[Violation]:
    """A generation that was over, and is there again."""
    rollbacks = [Span(fault.began, fault.ended) for fault in faults if fault.loses == "latest"]
    ours = [done for done in calm if done.generation == generation]
    found = []
    for first, second in _pairs(list(_looks(generation, calm)), rollbacks):
        if first.place != OVER or second.place == OVER:
            continue
        # A clear that a living opener has not seen may be undone by it: docs/guarantees.md.
        knew = {done.worker for done in ours if _says_over(done) and done.began < second.done.ended}
        keepers = {done.worker for done in ours if done.name == "open"} - knew
        if not (keepers and _undone(Span(first.done.began, second.done.ended), absences)):
            found.append(Violation("a generation came back", f"after {first.done}, {second.done}", first.done.room))
    return found


def lives_on(calls: Iterable[Done], killed: Mapping[str, float], lease: float) -> list[Violation]:
    """Rooms of owners that were killed (when), which a later look of the judge finds alive."""
    found = []
    for done in _entries(calls):
        owner, status, _ = done.answer
        late = done.began - killed.get(owner, math.inf) - lease - RESTORED
        if late > 0 and not KVPoll(status).is_terminal:
            found.append(Violation("a dead owner's room lives on", f"{late:.1f} s too long: {done}"))
    return found


def taken_for_dead(calls: Iterable[Done], hurt: Collection[str]) -> list[Violation]:
    """Rooms that failed because their owner was lost, though that was neither killed nor stopped."""
    found = []
    for done in _entries(calls):
        owner, status, reason = done.answer
        if owner not in hurt and KVPoll(status) is KVPoll.Failed and LOST.fullmatch(reason or ""):
            found.append(Violation("a living owner was taken for dead", str(done)))
    return found


def _entries(calls: Iterable[Done]) -> Iterator[Done]:
    """What the judge saw of rooms that have an owner."""
    return (done for done in calls if done.worker == JUDGE and done.name == "entry" and done.answer and done.answer[0])


def _failures(generation: str, of_room: list[Done], faults: list[Fault], span: Callable[[Done], Span]) -> list[Span]:
    """The times within which it may have failed: told so, or because its owner was stopped or killed."""
    told = [d for d in of_room if d.generation == generation and d.name in WRITES and d.argument == KVPoll.Failed]
    openers = {done.worker for done in of_room if done.name == "open" and done.generation == generation}
    return [span(done) for done in told] + [Span(fault.began, math.inf) for fault in faults if fault.worker in openers]


def _looks(generation: str, calm: list[Done]) -> Iterator[Look]:
    """What calls say of a generation. While it may not have begun yet, it is not over."""
    born = min((done.ended for done in calm if done.generation == generation and not done.error), default=math.inf)
    for done in calm:
        if done.error or done.ended == math.inf:
            continue
        if done.generation == generation:
            yield Look(_place(done), done)
        elif done.name in OPENS | {"entry"} and done.began > born:
            yield Look(OVER, done)


def _place(done: Done) -> float:
    """Where the generation of a call was, after what that did."""
    if done.name in OPENS:
        return SOMEWHERE
    if done.name == "release" or done.answer is None or done.answer[0] == Outcome.STALE.name:
        return OVER
    return rules.place(done.answer[1])


def _undone(between: Span, absences: list[Absence]) -> bool:
    """Whether a clear may have been undone by an opener who has not seen it, with what that knew last."""
    return any(_any_met([absence.span], between) for absence in absences)


def _says_over(done: Done) -> bool:
    """Whether its caller was told that the generation is over."""
    return not done.error and done.ended < math.inf and _place(done) == OVER


def _pairs(looks: list[Look], between: list[Span]) -> Iterator[tuple[Look, Look]]:
    """For each look, an earlier one from each end: the furthest, and one at which all was over."""
    for second in looks:
        since = max((span.ended for span in between if span.began <= second.done.ended), default=-math.inf)
        known = [one for one in looks if one.done.ended < second.done.began and one.done.began > since]
        if known:
            yield max(known, key=lambda look: look.place), second
            if (over := min(known, key=lambda look: look.place)).place == OVER:
                yield over, second


def _is_disturbed(done: Done, absences: list[Absence]) -> bool:
    """Whether it fell into a time in which data was lost and not yet brought back."""
    return any(absence.fault.loses and _any_met([Span(done.began, done.ended)], absence.span) for absence in absences)


def _any_met(spans: list[Span], between: Span) -> bool:
    return any(span.began <= between.ended and span.ended >= between.began for span in spans)
