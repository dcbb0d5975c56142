"""What is counted since the start, for all shards of a namespace: it only grows, whatever happens to the server.

An event counts at its own time, in the server's seconds, which is later than some that were read before: shards are
read one after the other, and an expiry is known late. So the last minutes are kept by second.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol.refused_writes import RefusedWrites
from redis_kvpoll.statistics import reasons
from redis_kvpoll.statistics.model import (
    ABSENT,
    BOUNDS,
    CLEARED,
    EXPIRED,
    FAILURES,
    LIVE,
    Histogram,
    Rates,
    ReasonCount,
    Second,
)
from redis_kvpoll.statistics.refusals import Refusals

KEPT_SECONDS = 900
"""For how long what happened is kept by second."""
RATE_SECONDS = 60
REASON_SECONDS = 3600
_REASON_PERIOD = 300
_MAX_REASONS = 100
"""Different reasons in one period; further ones count by their kind only."""
_OPENED, _REFUSED = "opened", "refused"
"""These and the values of _FIELD_OF are the fields of Second and of Rates."""
_FIELD_OF = {
    KVPoll.Success.name: "succeeded",
    KVPoll.Failed.name: "failed",
    CLEARED: "cleared",
    EXPIRED: "expired",
}


class Durations:
    """A histogram that grows."""

    __slots__ = ("_counts", "_longest", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = self._longest = 0.0

    def add(self, milliseconds: int) -> None:
        seconds = max(0, milliseconds) / 1000
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds
        self._longest = max(self._longest, seconds)

    def histogram(self) -> Histogram:
        return Histogram(tuple(self._counts), self._sum, self._longest)


class _Reasons:
    """The reasons of a period of time."""

    __slots__ = ("counts", "last")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last: dict[str, tuple[float, str]] = {}
        """When each came last, and how it read then."""


class Totals:
    """The counters of one namespace."""

    def __init__(self) -> None:
        self._transitions: Counter[tuple[str, str]] = Counter()
        self._failures = dict.fromkeys(FAILURES, 0)
        self._refusals = Refusals()
        self.status_durations = {status: Durations() for status in LIVE}
        self.room_durations = {KVPoll.Success: Durations(), KVPoll.Failed: Durations()}
        self.gaps = self.resyncs = 0
        self._seconds: dict[int, Counter[str]] = {}
        self._reasons: dict[int, _Reasons] = {}
        self._first_ms: int | None = None
        """The time from which on everything was counted."""

    def begin(self, at_ms: int) -> None:
        """Note the time from which on everything of a shard is counted: for all of them, it is the latest."""
        self._first_ms = max(at_ms, self._first_ms or 0)

    def transition(self, before: str, after: str, at_ms: int) -> None:
        """Count a change of a room's status."""
        self._transitions[before, after] += 1
        if before == ABSENT:
            self._add(_OPENED, at_ms)
        if after in _FIELD_OF:
            self._add(_FIELD_OF[after], at_ms)

    def failure(self, reason: str | None, at_ms: int) -> None:
        """Count a room that has failed; ``reason`` is its first."""
        self._failures[reasons.kind_of(reason)] += 1
        text, period = reasons.masked(reason) if reason else "", at_ms // 1000 // _REASON_PERIOD
        kept = self._reasons.get(period)
        if kept is None:
            kept = self._reasons[period] = _Reasons()
            for old in [each for each in self._reasons if each < period - REASON_SECONDS // _REASON_PERIOD]:
                del self._reasons[old]
        if text in kept.counts or len(kept.counts) < _MAX_REASONS:
            kept.counts[text] += 1
            now = (at_ms / 1000, (reason or "")[: reasons.MASKED_LENGTH])
            kept.last[text] = max(now, kept.last.get(text, now))

    def refused(self, tag: str, found: RefusedWrites, at_ms: int) -> None:
        """Count what the server of a shard has counted since the last reading."""
        if more := self._refusals.read(tag, found, at_ms):
            self._add(_REFUSED, at_ms, more)

    def _add(self, what: str, at_ms: int, more: int = 1) -> None:
        second = at_ms // 1000
        counts = self._seconds.get(second)
        if counts is None:
            counts = self._seconds[second] = Counter()
            if len(self._seconds) > 2 * KEPT_SECONDS:
                last = max(self._seconds)
                self._seconds = {at: kept for at, kept in self._seconds.items() if at > last - KEPT_SECONDS}
        counts[what] += more

    # Reading

    def transitions(self) -> dict[tuple[str, str], int]:
        return dict(self._transitions)

    def failures(self) -> dict[str, int]:
        return dict(self._failures)

    def refusals(self) -> dict[str, int]:
        return self._refusals.seen()

    def seconds(self, now_ms: int, count: int) -> Iterator[Second]:
        """The last seconds that are complete, the oldest first."""
        last = now_ms // 1000
        for at in range(last - min(count, KEPT_SECONDS), last):
            yield Second(at, **self._seconds.get(at, Counter()))

    def rates(self, now_ms: int) -> Rates:
        """The rates of the last minute, or since the beginning if that is shorter."""
        first_ms = now_ms if self._first_ms is None else self._first_ms
        seconds = min(RATE_SECONDS, max(0, now_ms // 1000 - first_ms // 1000))
        refused, refused_seconds = self._refusals.rate(now_ms, seconds or RATE_SECONDS)
        sums: Counter[str] = Counter()
        for at in range(now_ms // 1000 - seconds, now_ms // 1000):
            sums.update(self._seconds.get(at, ()))
        del sums[_REFUSED]
        means = {what: count / seconds for what, count in sums.items()}
        return Rates(float(seconds), **means, refused=refused, refused_seconds=refused_seconds)

    def reasons(self, now_ms: int, limit: int = 20) -> tuple[ReasonCount, ...]:
        """The most frequent reasons of the last hour."""
        counts: Counter[str] = Counter()
        last: dict[str, tuple[float, str]] = {}
        for period, kept in self._reasons.items():
            if (period + 1) * _REASON_PERIOD * 1000 > now_ms - REASON_SECONDS * 1000:
                counts.update(kept.counts)
                for text, latest in kept.last.items():
                    last[text] = max(latest, last.get(text, latest))
        most = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:limit]
        return tuple(ReasonCount(text, reasons.kind_of(text), count, *last[text]) for text, count in most)
