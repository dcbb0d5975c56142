"""When which room is due to have expired."""

from __future__ import annotations

import heapq
from itertools import islice

TICKS = 4
"""A second: how finely due times are told apart, and so how late a room that expired is asked about."""


class _Bucket(set[int]):
    """The rooms that are due at one tick."""

    __slots__ = ("tick",)

    def __init__(self, tick: int) -> None:
        super().__init__()
        self.tick = tick


class Expiry:
    """Rooms by when they are due, each in exactly one bucket, so that it holds no more than the rooms there are.

    Times are seconds of any clock that does not go back.
    """

    def __init__(self) -> None:
        self._bucket_of: dict[int, _Bucket] = {}
        self._buckets: dict[int, _Bucket] = {}
        self._ticks: list[int] = []
        """A heap of the buckets' ticks, and perhaps of some that are gone."""

    def __len__(self) -> int:
        return len(self._bucket_of)

    def set(self, room: int, at: float) -> None:
        """The room is due at a time, and at no other."""
        tick = int(at * TICKS) + 1
        old = self._bucket_of.get(room)
        if old is None or old.tick != tick:
            self.drop(room)
            bucket = self._buckets.get(tick)
            if bucket is None:
                bucket = self._buckets[tick] = _Bucket(tick)
                heapq.heappush(self._ticks, tick)
            bucket.add(room)
            self._bucket_of[room] = bucket

    def no_later(self, room: int, at: float) -> None:
        """The room is due at a time, unless it is due before."""
        old = self._bucket_of.get(room)
        if old is None or old.tick > int(at * TICKS) + 1:
            self.set(room, at)

    def drop(self, room: int) -> None:
        """The room is due no more."""
        bucket = self._bucket_of.pop(room, None)
        if bucket is not None:
            bucket.discard(room)
            if not bucket:
                del self._buckets[bucket.tick]

    def due(self, now: float, limit: int) -> list[int]:
        """Up to ``limit`` rooms that are due. They stay so until something else is said of them."""
        while self._ticks and self._ticks[0] <= now * TICKS:
            bucket = self._buckets.get(self._ticks[0])
            if bucket:
                return list(islice(bucket, limit))
            heapq.heappop(self._ticks)
        return []
