"""The refused writes of all shards, as their servers count them: how many were seen, and how many a second.

Invariant: the servers note no times. So a rate is the mean of the time between two readings, of the last minute at
most, and names that time; what was counted before the first reading has no part in it.
"""

from __future__ import annotations

from collections import deque

from redis_kvpoll.protocol.refused_writes import RefusedWrites
from redis_kvpoll.statistics.model import REFUSED

KEPT_MS = 60_000
"""For how long readings are kept."""


class Refusals:
    """The refused writes of one namespace."""

    def __init__(self) -> None:
        self._seen = dict.fromkeys(REFUSED, 0)
        self._then: dict[str, RefusedWrites] = {}
        self._readings: dict[str, deque[tuple[int, int]]] = {}
        """By shard: the times of readings, and how many had been seen by then."""

    def read(self, tag: str, found: RefusedWrites, at_ms: int) -> int:
        """Return how many more the server of a shard has counted since the last reading: none, at the first.

        Below what it was, it has begun anew; or a replica that lacks the last ones has taken over, if the counts began
        when they did before.
        """
        then = self._then.get(tag, found)
        is_same = then.since is not None and then.since == found.since
        counts, total = dict(found.counts), 0
        for outcome in REFUSED:
            now, before = counts.get(outcome, 0), then.counts.get(outcome, 0)
            if is_same:
                now = counts[outcome] = max(now, before)
            more = now - before if now >= before else now
            self._seen[outcome] += more
            total += more
        self._then[tag] = RefusedWrites(counts, found.since)
        self._keep(tag, found, at_ms, total)
        return total

    def _keep(self, tag: str, found: RefusedWrites, at_ms: int, more: int) -> None:
        readings = self._readings.setdefault(tag, deque())
        if not readings and not found.total:  # a server keeps its counts for a week: nothing was refused
            readings.append((at_ms - KEPT_MS, 0))
        readings.append((at_ms, (readings[-1][1] if readings else 0) + more))
        while len(readings) > 2 and readings[1][0] <= at_ms - KEPT_MS:
            readings.popleft()

    def seen(self) -> dict[str, int]:
        """Return how many were counted since the first reading, by outcome."""
        return dict(self._seen)

    def rate(self, now_ms: int, seconds: int) -> tuple[float | None, float]:
        """Return how many there were in a second, and of how many of the last ``seconds`` that is the mean.

        None and 0 before a shard's second reading.
        """
        start, rate, spans = now_ms - 1000 * seconds, 0.0, []
        for readings in self._readings.values():
            at, before = next((one for one in reversed(readings) if one[0] <= start), readings[0])
            last, seen = readings[-1]
            span = (last - max(at, start)) / 1000
            if span <= 0:
                return None, 0.0
            spans.append(min(span, float(seconds)))
            rate += (seen - before) / span
        return (rate, min(spans)) if spans else (None, 0.0)
