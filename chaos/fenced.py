"""Checks what no history of handles may show: rooms that were opened, written through generations, and cleared. Pure.

An observation here is of one generation of a room: how far it had got, or that it had ended. A call that may be
executed after its end (see checker) explains what it could have done. Of data that a server lost (see FaultEvent):

- What survived stays true, at every moment: it never goes back, and what was cleared is never created again.
- What did not survive must be there again once it is recovered, if a living holder was told it by a write or an open.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from chaos import rules
from chaos.history import OBSERVER, CallRecord, FaultEvent
from chaos.recoveries import Absence, Recoveries, any_met
from chaos.violations import Observation, Span, Violation
from redis_kvpoll import KVPoll, Outcome

RECOVERY_SECONDS = 2.0
"""Seconds after a server's return within which its rooms are there again, and after a lease's expiry within which its
rooms are failed."""
LOST = re.compile(r"owner .* lost")
OPENS = frozenset({"open", "attach"})
WRITES = frozenset({"write", "fail"})
AWAIT = "await"
"""A wait for a room that its process opened through a handle."""
NAMES = OPENS | WRITES | {"release", "status", "entry", AWAIT}
ENDED, PRESENT = 0, 0.5
"""The places of a generation that is no longer the room's, and of one that is, at an unknown status."""


class Generation(NamedTuple):
    """One generation of a room, and what may explain its changes."""

    name: str
    records: list[CallRecord]
    """All calls on the room."""
    faults: list[FaultEvent]
    absences: list[Absence]
    """Those since the opening."""
    opening: CallRecord
    """The first call that saw it."""
    execution: Callable[[CallRecord], Span]
    """The time within which the server may have executed a call."""

    def absences_in(self, span: Span) -> list[Absence]:
        """The absences that meet a time."""
        return [one for one in self.absences if one.span.began <= span.ended and one.span.ended >= span.began]

    def is_disturbed(self, record: CallRecord) -> bool:
        """Whether a call ran while data was lost and not yet recovered."""
        return bool(self.absences_in(Span(record.began, record.ended)))

    def survives(self, record: CallRecord, fault: FaultEvent) -> bool:
        """Whether what a call saw is beyond a loss: it survived, or it came later and the opening was not lost."""
        if fault.spares(record):
            return True
        if fault.loses == "all" or record.began < fault.ended:
            return False
        return self.opening.began >= fault.ended or fault.spares(self.opening)


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
    recoveries = Recoveries(faults, RECOVERY_SECONDS)
    for record in calls:
        if record.name in NAMES:
            rooms[record.room].append(record)
        recoveries.note(record, shard(record.room))
    for room, of_room in rooms.items():
        found += shared_generations(of_room)
        for name in sorted({record.generation for record in of_room} - {""}):
            opening = min(
                (one for one in of_room if one.generation == name), key=lambda one: (bool(one.error), one.ended)
            )
            absences = recoveries.absences(shard(room), _holders(name, of_room), opening.began)
            generation = Generation(name, of_room, faults, absences, opening, execution)
            found += goes_back(generation)[:1]
            found += comes_back(generation)[:1]
    return found


def _creators(generation: str, of_room: list[CallRecord]) -> set[int]:
    return {record.worker for record in of_room if record.name == "open" and record.generation == generation}


def _holders(generation: str, of_room: list[CallRecord]) -> set[int]:
    """The workers that opened or attached this generation."""
    return {record.worker for record in of_room if record.name in OPENS and record.generation == generation}


def shared_generations(of_room: list[CallRecord]) -> list[Violation]:
    """Generations that two requests got."""
    first: dict[str, CallRecord] = {}
    named = [record for record in of_room if record.generation and record.request]
    return [
        Violation("two requests share a generation", f"{first[record.generation]} and {record}")
        for record in named
        if first.setdefault(record.generation, record).request != record.request
    ]


def goes_back(generation: Generation) -> list[Violation]:
    """Observations of a generation behind an earlier one, or of its end, with no clear to explain it."""
    ends = [
        generation.execution(call)
        for call in generation.records
        if call.name == "release" and call.generation in ("", generation.name)
    ]
    reopenings = [
        generation.execution(call)
        for call in generation.records
        if call.name == "open" and call.generation != generation.name
    ]
    failures = _failures(generation)
    found = []
    for first, second in _pairs(generation, _must_hold):
        if second.place >= first.place or second.place == PRESENT:
            continue
        between = _between(generation, first, second)
        if second.place == ENDED and any_met(ends, between):
            continue
        lost = [one for one in generation.absences_in(between) if one.fault.loses == "all"]
        before = Span(-math.inf, between.began)
        if second.place == ENDED and lost and any_met(ends, before) and any_met(reopenings, before):
            continue  # its creator, which did not know that it had ended, has restored it, and another the next one
        if second.place != ENDED and any_met(ends + reopenings, between) and generation.absences_in(between):
            continue  # it had ended, and its creator knew neither that nor what came before
        if second.place == ENDED and any_met(reopenings, between):
            while_lost = any(any_met(reopenings, absence.span) for absence in generation.absences)
            # A room that failed long before is also observed as present.
            since = Span(-math.inf, between.ended) if first.place == PRESENT else between
            if first.place != rules.FAILED and not any_met(failures, since) and not while_lost:
                found.append(_violation("a live room was reassigned", first, second))
            continue
        found.append(_violation("a generation went back", first, second))
    return found


def comes_back(generation: Generation) -> list[Violation]:
    """Observations of a generation that had ended before."""
    of_generation = [record for record in generation.records if record.generation == generation.name]
    found = []
    for first, second in _pairs(generation, _must_stay_ended):
        if first.place != ENDED or second.place == ENDED:
            continue
        absences = generation.absences_in(Span(first.record.began, second.record.ended))
        # A creator that has not seen a clear may undo it when all was lost: docs/guarantees.md.
        uninformed = _uninformed([call for call in of_generation if call.began < second.record.ended])
        if not uninformed or all(generation.survives(first.record, absence.fault) for absence in absences):
            found.append(_violation("a generation came back", first, second))
    return found


def _violation(rule: str, first: Observation, second: Observation) -> Violation:
    return Violation(rule, f"from {first.record} to {second.record}", first.record.room)


def _must_hold(generation: Generation, first: Observation, second: Observation) -> bool:
    """Whether the second observation must show what the first did, unless a call explains the difference."""
    met = generation.absences_in(Span(first.record.began, second.record.ended))
    if all(generation.survives(first.record, absence.fault) for absence in met):
        return True
    if generation.is_disturbed(second.record):
        return False
    if not generation.is_disturbed(first.record) and all(absence.fault.loses == "all" for absence in met):
        return True
    hit = {fault.worker for fault in generation.faults}
    is_told = first.record.name in WRITES or first.record.name == "open"
    return is_told and first.record.worker not in hit and bool(_creators(generation.name, generation.records) - hit)


def _must_stay_ended(generation: Generation, first: Observation, second: Observation) -> bool:
    """Whether the second observation must show an end that the first did, unless a creator may undo it."""
    met = generation.absences_in(Span(first.record.began, second.record.ended))
    if all(generation.survives(first.record, absence.fault) for absence in met):
        return True
    disturbed = generation.is_disturbed(first.record) or generation.is_disturbed(second.record)
    return not disturbed and all(absence.fault.loses == "all" for absence in met)


def _between(generation: Generation, first: Observation, second: Observation) -> Span:
    """The time between two observations. Two servers may have acted at once while one took the other's place."""
    met = generation.absences_in(Span(first.record.began, first.record.ended))
    return Span(min([first.record.began, *(absence.fault.began for absence in met)]), second.record.ended)


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


def _failures(generation: Generation) -> list[Span]:
    """The times within which a generation may have failed: by a call, or because its owner was stopped or killed."""
    fails = [
        generation.execution(record)
        for record in generation.records
        if record.generation == generation.name and record.name in WRITES and record.argument == KVPoll.Failed
    ]
    creators = _creators(generation.name, generation.records)
    return fails + [Span(fault.began, math.inf) for fault in generation.faults if fault.worker in creators]


def _observations(generation: Generation) -> Iterator[Observation]:
    """The observations of a generation. Before its first call has ended, another generation does not end it."""
    begun = min(
        (record.ended for record in generation.records if record.generation == generation.name and not record.error),
        default=math.inf,
    )
    for record in generation.records:
        if record.ended == math.inf or (record.error and not _missed(record)):
            continue
        if record.generation == generation.name:
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


def _missed(record: CallRecord) -> bool:
    """Whether a wait found its room absent."""
    return record.name == AWAIT and record.error.startswith("RoomNotFoundError")


def _uninformed(of_generation: list[CallRecord]) -> set[int]:
    """The workers that have seen no end of the generation since they opened it last."""
    found = set()
    for call in sorted(of_generation, key=lambda call: call.began):
        if call.name == "open":
            found.add(call.worker)
        elif _saw_end(call):
            found.discard(call.worker)
    return found


def _saw_end(record: CallRecord) -> bool:
    """Whether the call's answer showed that the generation had ended."""
    return not record.error and record.ended < math.inf and _place(record) == ENDED


def _pairs(
    generation: Generation, bind: Callable[[Generation, Observation, Observation], bool]
) -> Iterator[tuple[Observation, Observation]]:
    """Each observation with two earlier ones that bind it: the furthest, and one that saw the end."""
    observations = list(_observations(generation))
    for second in observations:
        earlier = [
            one for one in observations if one.record.ended < second.record.began and bind(generation, one, second)
        ]
        if earlier:
            yield max(earlier, key=lambda one: one.place), second
            if (lowest := min(earlier, key=lambda one: one.place)).place == ENDED:
                yield lowest, second
