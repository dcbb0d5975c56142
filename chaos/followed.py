"""Checks what followers of failures have reported: nothing of a generation that did not fail, and all that is held.

Pure, as chaos.checker. A generation lives from the call that opened it to the first that ended it. Its failure needs a
cause within that time: a failing write through it, an abort of its room, or the loss of a worker that opened it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from chaos.fenced import LOST
from chaos.history import OBSERVER, CallRecord, FaultEvent
from chaos.violations import Span, Violation
from redis_kvpoll import KVPoll, Outcome

REPORT = "reported"
NAMES = frozenset({"claim", "doom", "stop", "free", "held", REPORT})
_FAILING = (Outcome.FAILED.name, Outcome.UNCHANGED.name)


def check(
    calls: Iterable[CallRecord], faults: Sequence[FaultEvent], execution: Callable[[CallRecord], Span]
) -> list[Violation]:
    """All violations."""
    by_room: defaultdict[int, list[CallRecord]] = defaultdict(list)
    entries: dict[int, CallRecord] = {}
    for record in calls:
        if record.name in NAMES:
            by_room[record.room].append(record)
        elif record.name == "entry" and record.worker == OBSERVER:
            entries[record.room] = record
    found = []
    for room, records in by_room.items():
        found += false_reports(records, faults, execution)
        found += missing_reports(records, entries.get(room))
    return found


def false_reports(
    records: Sequence[CallRecord], faults: Sequence[FaultEvent], execution: Callable[[CallRecord], Span]
) -> list[Violation]:
    """Reports of a generation that nothing can have failed by then. Once for each worker and generation."""
    found: dict[tuple[int, str], Violation] = {}
    for report in records:
        if report.name == REPORT and not _has_cause(report, records, faults, execution):
            rule = "a failure was reported that its generation did not have"
            found.setdefault((report.worker, report.generation), Violation(rule, str(report), report.room))
    return list(found.values())


def _has_cause(
    report: CallRecord,
    records: Sequence[CallRecord],
    faults: Sequence[FaultEvent],
    execution: Callable[[CallRecord], Span],
) -> bool:
    life = _life(report.generation, records, faults, execution)
    for record in records:
        if record.began > report.ended or not _may_fail(record, faults):
            continue
        span = execution(record)
        if record.name == "doom" and record.generation == report.generation:
            return True
        if record.name == "stop" and span.began <= life.ended and span.ended >= life.began:
            return True
    openers = {one.worker for one in records if one.name == "claim" and one.generation == report.generation}
    hit = {fault.worker for fault in faults if fault.worker is not None and fault.began < report.ended}
    is_loss = LOST.fullmatch(report.answer or "") is not None
    return is_loss and bool(hit) and (not openers or bool(openers & hit) or _may_have_more_openers(records))


def _may_fail(record: CallRecord, faults: Sequence[FaultEvent]) -> bool:
    """Whether a failing call may have failed something.

    If a fault of the server or its connections has lost a reply, the call was repeated, and its answer is that of the
    last try: STALE, if the room was opened again after the first one had failed it.
    """
    if record.name not in ("doom", "stop"):
        return False
    if any(fault.worker is None and fault.began <= record.ended and fault.ended >= record.began for fault in faults):
        return True
    return bool(record.error) or record.ended == math.inf or record.answer[0] in _FAILING


def _may_have_more_openers(records: Sequence[CallRecord]) -> bool:
    """Whether a worker may have opened a generation and not lived to say so."""
    return any(one.name == "claim" and (one.ended == math.inf or one.error) for one in records)


def _life(
    generation: str,
    records: Sequence[CallRecord],
    faults: Sequence[FaultEvent],
    execution: Callable[[CallRecord], Span],
) -> Span:
    """The longest time in which a generation may have lived."""
    born = min(
        (one.began for one in records if one.name == "claim" and one.generation == generation), default=-math.inf
    )
    if any(fault.loses for fault in faults):
        return Span(born, math.inf)  # a loss may bring it back
    ends = [
        execution(one).ended
        for one in records
        if (one.name == "free" and one.generation == generation and one.answer is not None)
        or (one.name == "claim" and one.generation and int(one.generation) > int(generation))
    ]
    return Span(born, min(ends, default=math.inf))


def missing_reports(records: Sequence[CallRecord], entry: CallRecord | None) -> list[Violation]:
    """Generations that a worker holds in the end, that failed, and that one of its followers does not know of."""
    if entry is None or entry.answer is None or KVPoll(entry.answer[1]) is not KVPoll.Failed:
        return []
    return [
        Violation("a failure of a held room was not reported", f"{record}, {entry}", record.room)
        for record in records
        if record.name == "held" and record.generation == entry.generation and record.answer is False
    ]
