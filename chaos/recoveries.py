"""When lost data must be there again: each holder of a room replays it, with its first call or heartbeat. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import NamedTuple

from chaos.history import CallRecord, FaultEvent
from chaos.violations import Span

LOCAL = frozenset({"mirror", "wait", "await"})
"""The calls that a local copy answers."""

Place = tuple[int, object]
"""A worker and a shard."""


class Absence(NamedTuple):
    """The time in which a generation may be missing, because its holders have not replayed it yet."""

    fault: FaultEvent
    span: Span


class Recoveries:
    """The faults that lost data, and the calls by which each worker has noticed them."""

    def __init__(self, faults: Iterable[FaultEvent], seconds: float) -> None:
        self._faults = [fault for fault in faults if fault.loses]
        self._seconds = seconds
        self._answered: defaultdict[Place, list[tuple[float, float]]] = defaultdict(list)
        self._sorted: dict[Place, tuple[list[float], list[float]]] = {}

    def note(self, record: CallRecord, shard: object) -> None:
        """Note a call; before the first question."""
        if self._faults and not record.error and record.ended < math.inf and record.name not in LOCAL:
            self._answered[record.worker, shard].append((record.began, record.ended))

    def absences(self, shard: object, holders: Collection[int], since: float) -> list[Absence]:
        """The absences of a generation with these holders that end after a time."""
        found = []
        for fault in self._faults:
            noticed = (self._first((holder, shard), fault.ended) for holder in holders)
            span = Span(fault.began, max([fault.ended + self._seconds, *noticed]))
            if span.ended >= since:
                found.append(Absence(fault, span))
        return found

    def _first(self, place: Place, since: float) -> float:
        """When the first of the calls that began since a time had ended; 0 without one."""
        if place not in self._sorted:
            calls = sorted(self._answered[place])
            ends = [ended for _, ended in calls]
            for at in range(len(ends) - 1, 0, -1):
                ends[at - 1] = min(ends[at - 1], ends[at])
            self._sorted[place] = [began for began, _ in calls], ends
        begins, ends = self._sorted[place]
        at = bisect_left(begins, since)
        return ends[at] if at < len(ends) else 0.0


def any_met(spans: Iterable[Span], between: Span) -> bool:
    return any(span.began <= between.ended and span.ended >= between.began for span in spans)
