"""The measurements of the workers and of the mirrors beside them, added up."""

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
    rooms_mirrored: int
    updates: Latency
    polls: Latency
    mirror_polls: Latency
    mirror_behind: int
    mirror_unsynced: int
    outcomes: dict[str, int]


class Counters:
    """All calls that were measured."""

    def __init__(self) -> None:
        self._updates: list[float] = []
        self._polls: list[float] = []
        self._mirror_polls: list[float] = []
        self._rooms_updated = self._rooms_polled = self._rooms_mirrored = 0
        self._mirror_behind = self._mirror_unsynced = 0
        self._outcomes: Counter[Outcome] = Counter()

    def add(self, measured: Measured) -> None:
        self._updates += measured.updates
        self._polls += measured.polls
        self._mirror_polls += measured.mirror_polls
        self._mirror_behind += measured.mirror_behind
        self._mirror_unsynced += measured.mirror_unsynced
        self._rooms_updated += measured.rooms_updated
        self._rooms_polled += measured.rooms_polled
        self._rooms_mirrored += measured.rooms_mirrored
        self._outcomes.update(measured.outcomes)

    def figures(self) -> Figures:
        return Figures(
            rooms_updated=self._rooms_updated,
            rooms_polled=self._rooms_polled,
            rooms_mirrored=self._rooms_mirrored,
            updates=Latency.of(self._updates),
            polls=Latency.of(self._polls),
            mirror_polls=Latency.of(self._mirror_polls),
            mirror_behind=self._mirror_behind,
            mirror_unsynced=self._mirror_unsynced,
            outcomes={outcome.name: self._outcomes[outcome] for outcome in Outcome if self._outcomes[outcome]},
        )
