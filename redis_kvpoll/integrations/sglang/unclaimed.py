"""Rooms without a sender: decode's message has opened them, or SGLang has dropped their sender uncleared. No I/O."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from redis_kvpoll.agent.life import Life
from redis_kvpoll.integrations.sglang.lives import RoomLives


class Unclaimed:
    """``lives`` has the current life of each room, and ``clock`` gives seconds."""

    def __init__(self, lives: RoomLives, clock: Callable[[], float]) -> None:
        self.rooms: dict[int, tuple[float, float]] = {}
        """By room: since when it has had no sender, and when decode last asked for it."""
        self._lives = lives
        self._clock = clock
        self.senders: dict[int, weakref.ref[Any]] = {}
        """By number of a life that is not over: its sender, as long as that is there."""
        self.dropped: deque[Life] = deque()
        """Each life whose sender is gone. To look whether there is one; ``take_dropped`` takes them."""

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

    def watch(self, sender: Any, life: Life) -> None:
        """Take note of it when the sender of a life is gone. Who ends the life before removes it from ``senders``."""

        def note_gone(_: object) -> None:  # in any line of any thread, with any lock: it takes none
            self.senders.pop(life.number, None)
            self.dropped.append(life)

        self.senders[life.number] = weakref.ref(sender, note_gone)  # weakref.finalize takes five times as long

    def take_dropped(self) -> Iterator[Life]:
        """Return each life that was noted since the last call."""
        while self.dropped:
            yield self.dropped.popleft()

    def held(self) -> list[tuple[int, int, float]]:
        """Return these rooms, with the numbers of their lives, and since when. The caller holds the registry's lock."""
        return [(room, self._lives[room].number, since) for room, (since, _) in self.rooms.items()]

    def is_old(self, room: int, age: float) -> bool:
        """Return whether a room has no sender, and decode has not asked for it in the last ``age`` seconds."""
        _, asked_at = self.rooms.get(room, (0.0, float("inf")))
        return asked_at <= self._clock() - age

    def old(self, age: float) -> list[int]:
        """Return all rooms that ``is_old``."""
        return [room for room in list(self.rooms) if self.is_old(room, age)]
