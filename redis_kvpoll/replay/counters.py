"""The workers' measurements, added up."""

from __future__ import annotations

from collections import Counter
from typing import TypedDict

from redis_kvpoll.model import Outcome
from redis_kvpoll.replay.messages import Measured
from redis_kvpoll.replay.report import Latency


class Figures(TypedDict):
    """The fields of a Report that come from measurements."""

    rooms_updated: int
    rooms_polled: int
    updates: Latency
    polls: Latency
    outcomes: dict[str, int]


class Counters:
    """All calls of all workers."""

    def __init__(self) -> None:
        self._updates: list[float] = []
        self._polls: list[float] = []
        self._rooms_updated = self._rooms_polled = 0
        self._outcomes: Counter[Outcome] = Counter()

    def add(self, measured: Measured) -> None:
        self._updates += measured.updates
        self._polls += measured.polls
        self._rooms_updated += measured.rooms_updated
        self._rooms_polled += measured.rooms_polled
        self._outcomes.update(measured.outcomes)

    def figures(self) -> Figures:
        return Figures(
            rooms_updated=self._rooms_updated,
            rooms_polled=self._rooms_polled,
            updates=Latency.of(self._updates),
            polls=Latency.of(self._polls),
            outcomes={outcome.name: self._outcomes[outcome] for outcome in Outcome if self._outcomes[outcome]},
        )
