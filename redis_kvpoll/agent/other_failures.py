"""Failures in the other table that a client follows, and what it needs to decide which of them concern its rooms.

The client alone knows who serves its rooms. So it is told that a failure waits, and asks when it knows enough. The
room is read only then: a failure counts only if it still holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from redis_kvpoll.agent import messages
from redis_kvpoll.agent.told import ToldRooms
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.model import KVPoll, RoomFailure

OWNERS_SECONDS = 1.0
"""How long a list of owners is used: many rooms of an instance fail at once."""


class OtherFailures:
    """The failures of one client's rooms in the other table. ``send`` sends the client a message."""

    def __init__(self, store: AsyncStatusStore, rooms: ToldRooms, send: Callable[[int, bytes], object]) -> None:
        self._store = store
        self._rooms = rooms
        self._send = send
        self._waiting: dict[int, tuple[int, int]] = {}
        """By room: the life for which its failure may count, and the generation that failed."""
        self._to_tell_again: set[int] = set()
        self._reads: set[asyncio.Task[None]] = set()
        self._owners: tuple[float, list[str]] = (float("-inf"), [])

    def on_failure(self, failure: RoomFailure) -> None:
        """Take note of a failure in the other table."""
        number = self._rooms.current_life(failure.room)
        if number is not None:
            self._waiting[failure.room] = number, failure.generation
            self._send(messages.FAILURE_WAITS, messages.encode_life(failure.room, number))

    def read(self, room: int, number: int) -> None:
        """Read a room whose failure waits for the client, and tell it what it needs."""
        waits_for, generation = self._waiting.get(room, (None, 0))
        if waits_for == number:
            del self._waiting[room]
            task = asyncio.create_task(self._read(room, number, generation))
            self._reads.add(task)
            task.add_done_callback(self._reads.discard)

    def tidy(self) -> None:
        """Forget what waits for lives that are over, and tell again what could not be read."""
        for room, (number, _) in list(self._waiting.items()):
            if self._rooms.current_life(room) != number:
                del self._waiting[room]
            elif room in self._to_tell_again:
                self._send(messages.FAILURE_WAITS, messages.encode_life(room, number))
        self._to_tell_again.clear()

    async def _read(self, room: int, number: int, generation: int) -> None:
        try:
            entry = await self._store.entry(room)
            if entry is None or entry.status is not KVPoll.Failed or (entry.generation or 0) != generation:
                return  # it was cleared; what is there since has a failure of its own, or none
            words: list[Any] = [room, number, entry.failed_by, entry.owner, entry.reason, await self._known_owners()]
        except KVPollError:
            self._waiting.setdefault(room, (number, generation))
            self._to_tell_again.add(room)
            return
        self._send(messages.FAILURE_READ, messages.encode_words(*words))

    async def _known_owners(self) -> list[str]:
        at, owners = self._owners
        if time.monotonic() - at > OWNERS_SECONDS:
            owners = [owner.name for owner in await self._store.owners()]
            self._owners = time.monotonic(), owners
        return owners
