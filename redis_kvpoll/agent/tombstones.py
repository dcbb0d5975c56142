"""Rooms that were over a while ago: remembered for a time, and at most so many. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")

TOMBSTONE_SECONDS = 300.0
"""How long a room is remembered: SGLang clears a room before it reads why it failed."""
MAX_TOMBSTONES = 10_000


class Tombstones(Generic[V]):
    """By room: what is remembered of it, and when to forget it. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rooms: OrderedDict[int, tuple[V, float]] = OrderedDict()
        """The oldest first. A dict's front is slow to reach once much was deleted there."""

    def __contains__(self, room: int) -> bool:
        return room in self._rooms

    def get(self, room: int) -> V | None:
        """Return what is remembered of a room; None if it is not remembered."""
        found = self._rooms.get(room)
        return None if found is None else found[0]

    def add(self, room: int, value: V) -> list[int]:
        """Remember a room; return the rooms that are forgotten for it."""
        now = self._clock()
        forgotten: list[int] = []
        self._rooms.pop(room, None)
        self._rooms[room] = value, now + TOMBSTONE_SECONDS
        while True:
            oldest = next(iter(self._rooms))
            if self._rooms[oldest][1] > now and len(self._rooms) <= MAX_TOMBSTONES:
                return forgotten
            del self._rooms[oldest]
            forgotten.append(oldest)
