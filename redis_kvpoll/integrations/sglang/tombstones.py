"""Rooms that were cleared a while ago, and how long a thread of SGLang's may wait for what other ranks know of them.

Both are bounded: in time, and in number or share. The caller holds the registry's lock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator

TOMBSTONE_SECONDS = 300.0
"""How long a cleared room is remembered, with its failure reason: SGLang clears a room before it reads the reason."""
MAX_TOMBSTONES = 10_000
MAX_WAIT_FRACTION = 0.1
"""The greatest share of its time that SGLang's thread may wait for other ranks' reasons."""


class Tombstones:
    """By cleared room: its last status, and when to forget it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rooms: OrderedDict[int, tuple[int | None, float]] = OrderedDict()
        """The oldest first. A dict's front is slow to reach once much was deleted there."""

    def __contains__(self, room: int) -> bool:
        return room in self._rooms

    def status(self, room: int) -> int | None:
        """Return the last status of a room; None if it had none, or is not known."""
        return self._rooms.get(room, (None, 0.0))[0]

    def add(self, room: int, status: int | None) -> Iterator[int]:
        """Remember a room; yield the rooms that are forgotten for it."""
        now = self._clock()
        self._rooms.pop(room, None)
        self._rooms[room] = status, now + TOMBSTONE_SECONDS
        while True:
            oldest = next(iter(self._rooms))
            if self._rooms[oldest][1] > now and len(self._rooms) <= MAX_TOMBSTONES:
                return
            del self._rooms[oldest]
            yield oldest

    def discard(self, room: int) -> None:
        """Forget a room, because it is open again."""
        self._rooms.pop(room, None)


class WaitBudget:
    """Each second adds ``MAX_WAIT_FRACTION`` seconds to it, up to one longest wait.

    When a hundred rooms fail at once, SGLang reads one reason after the other.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = -math.inf
        """Since when unused waiting time has been saved up."""

    def seconds(self, longest: float) -> float:
        """Return how long a wait may be now."""
        now = self._clock()
        self._since = max(self._since, now - longest / MAX_WAIT_FRACTION)
        return (now - self._since) * MAX_WAIT_FRACTION

    def spend(self, seconds: float) -> None:
        """Take a wait from the budget."""
        self._since += seconds / MAX_WAIT_FRACTION
