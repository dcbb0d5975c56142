"""Rooms ordered by expiry time.

Invariant: each room is in exactly one bucket, so the buckets hold no more than the rooms that exist.
"""

from __future__ import annotations

import heapq
from itertools import islice

TICKS = 4
"""Per second; bounds how late the follower reads an expired room."""


class _Bucket(set[int]):
    """The rooms that are due at one tick."""

    __slots__ = ("tick",)

    def __init__(self, tick: int) -> None:
        super().__init__()
        self.tick = tick


class Expiry:
    """Rooms with their due times, which are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._bucket_of: dict[int, _Bucket] = {}
        self._buckets: dict[int, _Bucket] = {}
        self._ticks: list[int] = []
        """A heap of the buckets' ticks, each once; some of the buckets may be gone."""
        self._in_heap: set[int] = set()

    def __len__(self) -> int:
        return len(self._bucket_of)

    def set(self, room: int, at: float) -> None:
        """Make the room due at this time only."""
        tick = int(at * TICKS) + 1
        old = self._bucket_of.get(room)
        if old is None or old.tick != tick:
            self.drop(room)
            bucket = self._buckets.get(tick)
            if bucket is None:
                bucket = self._buckets[tick] = _Bucket(tick)
                if tick not in self._in_heap:
                    self._in_heap.add(tick)
                    heapq.heappush(self._ticks, tick)
            bucket.add(room)
            self._bucket_of[room] = bucket

    def no_later(self, room: int, at: float) -> None:
        """Make the room due at a time, unless it is due earlier."""
        old = self._bucket_of.get(room)
        if old is None or old.tick > int(at * TICKS) + 1:
            self.set(room, at)

    def drop(self, room: int) -> None:
        """Remove the room."""
        bucket = self._bucket_of.pop(room, None)
        if bucket is not None:
            bucket.discard(room)
            if not bucket:
                del self._buckets[bucket.tick]

    def due(self, now: float, limit: int) -> list[int]:
        """Return up to ``limit`` rooms that are due; they stay due until they are set again or dropped."""
        while self._ticks and self._ticks[0] <= now * TICKS:
            bucket = self._buckets.get(self._ticks[0])
            if bucket:
                return list(islice(bucket, limit))
            self._in_heap.discard(heapq.heappop(self._ticks))
        return []
