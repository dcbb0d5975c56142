"""Rooms without a sender: decode's message has opened them, or SGLang has dropped their sender uncleared. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator


class Unclaimed:
    """By room: since when it has had no sender, and when decode last asked for it. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: dict[int, tuple[float, float]] = {}
        self._dropped: deque[tuple[int, int]] = deque()

    def __contains__(self, room: int) -> bool:
        return room in self._times

    def add(self, room: int) -> float:
        """Take note of a room; return the time."""
        now = self._clock()
        self._times[room] = now, now
        return now

    def asked(self, room: int) -> None:
        """Take note that decode has just asked for a room, if it is one of these."""
        if room in self._times:
            self._times[room] = self._times[room][0], self._clock()

    def pop(self, room: int) -> float | None:
        """Forget a room; return since when it has had no sender. None if it is not one of these."""
        since, _ = self._times.pop(room, (None, None))
        return since

    def note_dropped(self, room: int, number: int) -> None:
        """Take note that the sender of a life is gone. For a finalizer, which may run in any line of its thread, with
        any lock: it takes none."""
        self._dropped.append((room, number))

    def take_dropped(self) -> Iterator[tuple[int, int]]:
        """Return each room and life that was noted since the last call."""
        while self._dropped:
            yield self._dropped.popleft()

    def since(self) -> dict[int, float]:
        """Return by room since when it has had no sender."""
        return {room: since for room, (since, _) in self._times.items()}

    def is_old(self, room: int, age: float) -> bool:
        """Return whether a room is one of these that decode has not asked for in the last so many seconds."""
        _, asked_at = self._times.get(room, (0.0, float("inf")))
        return asked_at <= self._clock() - age

    def old(self, age: float) -> list[int]:
        """Return these rooms."""
        return [room for room in list(self._times) if self.is_old(room, age)]
