"""The last quarter of an hour of one table, for the charts. Pure.

A sample is kept each PERIOD of the server's time, while the statistics are synced; a period without one is a gap in the
lines. Rates and quantiles come from the differences of counters between samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from redis_kvpoll.model import KVPoll
from redis_kvpoll.serve import charts, formats
from redis_kvpoll.serve.charts import Drawing
from redis_kvpoll.statistics.model import EXPIRED, LIVE, Histogram, Snapshot

PERIOD = 5
SLOTS = 180
ROW_EVERY = 6
"""The table behind a chart has a row each half minute."""
STATUSES = (KVPoll.Bootstrapping, KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Success, KVPoll.Failed)
ENDS = (KVPoll.Success.name, KVPoll.Failed.name, EXPIRED)
_QUANTILE_SLOTS = 12
_FASTEST = 0.001
"""Seconds at the bottom of the chart of durations, whose scale is logarithmic."""

Series = list[float | None]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one snapshot says that is drawn."""

    at: float
    counts: Mapping[KVPoll, int]
    ends: tuple[int, ...] | None
    """None without a feed, which tells them."""
    durations: Mapping[KVPoll, Histogram]


class ChartHistory:
    """The samples of one namespace by slot, which is a multiple of PERIOD."""

    def __init__(self) -> None:
        self._samples: dict[int, Sample] = {}
        self.last_slot = 0

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, snapshot: Snapshot) -> None:
        """Keep a snapshot if it is the first of its slot."""
        slot = int(snapshot.at // PERIOD)
        if slot < self.last_slot:  # the server's clock went back: what there was then is in its future
            self._samples = {kept: sample for kept, sample in self._samples.items() if kept < slot}
        self.last_slot = slot
        if not snapshot.synced or slot in self._samples:
            return
        ends = tuple(sum(number for (_, after), number in snapshot.transitions.items() if after == end) for end in ENDS)
        known_ends = ends if snapshot.has_feed else None
        self._samples[slot] = Sample(snapshot.at, snapshot.counts, known_ends, snapshot.status_durations)
        for old in [kept for kept in self._samples if kept <= slot - SLOTS - _QUANTILE_SLOTS]:
            del self._samples[old]

    def drawings(self) -> dict[str, Drawing]:
        """Return the three charts, each of the last SLOTS slots."""
        return {"rooms": self._rooms(), "ends": self._ends(), "durations": self._durations()}

    def _slots(self) -> range:
        return range(self.last_slot - SLOTS + 1, self.last_slot + 1)

    def _rooms(self) -> Drawing:
        series: list[Series] = []
        for status in STATUSES:
            found = (self._samples.get(slot) for slot in self._slots())
            series.append([sample.counts.get(status, 0) if sample else None for sample in found])
        totals = [
            None if None in column else sum(value or 0 for value in column) for column in zip(*series, strict=True)
        ]
        top = charts.ceiling(totals, 10)
        return self._drawing(charts.stack(series, top), f"{top:,.0f}", series, lambda value: f"{value:,.0f}")

    def _ends(self) -> Drawing:
        series: list[Series] = [[self._rate(slot, number) for slot in self._slots()] for number in range(len(ENDS))]
        top = charts.ceiling([value for values in series for value in values], 1)
        paths = tuple(charts.line(values, top) for values in series)
        return self._drawing(paths, f"{top:g}/s", series, formats.rate)

    def _durations(self) -> Drawing:
        series: list[Series] = [[self._p99(slot, status) for slot in self._slots()] for status in LIVE]
        largest = max((value for values in series for value in values if value is not None), default=0.0)
        top = max(1.0, 10.0 ** math.ceil(math.log10(max(largest, _FASTEST))))
        height = math.log10(top / _FASTEST)
        paths = tuple(
            charts.line([None if v is None else math.log10(max(v, _FASTEST) / _FASTEST) for v in values], height)
            for values in series
        )
        return self._drawing(paths, formats.duration(top), series, formats.duration)

    def _rate(self, slot: int, number: int) -> float | None:
        now, then = self._samples.get(slot), self._samples.get(slot - 1)
        if now is None or then is None or now.at <= then.at or now.ends is None or then.ends is None:
            return None
        return (now.ends[number] - then.ends[number]) / (now.at - then.at)

    def _p99(self, slot: int, status: KVPoll) -> float | None:
        """The 99th percentile of the minute before a slot, or of what there is of it."""
        now = self._samples.get(slot)
        then = next((s for s in map(self._samples.get, range(slot - _QUANTILE_SLOTS, slot)) if s is not None), None)
        if now is None or then is None:
            return None
        current = now.durations.get(status, Histogram())
        return current.since(then.durations.get(status, Histogram())).quantile(0.99)

    def _drawing(self, paths: tuple[str, ...], top: str, series: list[Series], show: charts.Show) -> Drawing:
        def shown(value: float | None) -> str:
            return formats.NONE if value is None else show(value)

        rows = tuple(
            (formats.clock((self.last_slot - back) * PERIOD), *(shown(values[-1 - back]) for values in series))
            for back in range(0, SLOTS, ROW_EVERY)
        )
        return Drawing(paths, top, tuple(shown(values[-1]) for values in series), rows)
