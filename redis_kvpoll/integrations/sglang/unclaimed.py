"""Rooms without a sender: decode's message has opened them, or SGLang has dropped their sender uncleared. No I/O."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Unclaimed:
    """``lives`` has the current life's number of each room, and ``clock`` gives seconds."""

    def __init__(self, lives: Mapping[int, int], clock: Callable[[], float]) -> None:
        self.rooms: dict[int, tuple[float, float]] = {}
        """By room: since when it has had no sender, and when decode last asked for it."""
        self._lives = lives
        self._clock = clock
        self._senders: dict[int, weakref.ref[Any]] = {}
        """By life: its sender, as long as that is there."""
        self.dropped: deque[tuple[int, int]] = deque()
        """Each room and life whose sender is gone. To look whether there is one; ``take_dropped`` takes them."""

    def add(self, room: int) -> float:
        """Take note of a room; return the time."""
        now = self._clock()
        self.rooms[room] = now, now
        return now

    def asked(self, room: int) -> None:
        """Take note that decode has just asked for one of these rooms."""
        self.rooms[room] = self.rooms[room][0], self._clock()

    def pop(self, room: int) -> float | None:
        """Forget a room; return since when it has had no sender. None if it is not one of these."""
        since, _ = self.rooms.pop(room, (None, None))
        return since

    def watch(self, sender: Any, room: int, number: int) -> None:
        """Take note of it when the sender of a life is gone, and the life is not over."""

        def note_gone(_: object) -> None:  # in any line of any thread, with any lock: it takes none
            self._senders.pop(number, None)
            if self._lives.get(room) == number:
                self.note_dropped(room, number)

        self._senders[number] = weakref.ref(sender, note_gone)  # weakref.finalize takes five times as long

    def note_dropped(self, room: int, number: int) -> None:
        """Take note that the sender of a life is gone."""
        self.dropped.append((room, number))

    def take_dropped(self) -> Iterator[tuple[int, int]]:
        """Return each room and life that was noted since the last call."""
        while self.dropped:
            yield self.dropped.popleft()

    def since(self) -> dict[int, float]:
        """Return by room since when it has had no sender."""
        return {room: since for room, (since, _) in self.rooms.items()}

    def is_old(self, room: int, age: float) -> bool:
        """Return whether a room has no sender, and decode has not asked for it in the last ``age`` seconds."""
        _, asked_at = self.rooms.get(room, (0.0, float("inf")))
        return asked_at <= self._clock() - age

    def old(self, age: float) -> list[int]:
        """Return all rooms that ``is_old``."""
        return [room for room in list(self.rooms) if self.is_old(room, age)]
