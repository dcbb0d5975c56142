"""What a worker does with the table: calls drawn by lot, for blocking stores and for those of asyncio alike."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from chaos.history import Writer
from chaos.notes import Notes
from redis_kvpoll import AsyncMirror, AsyncStatusStore, Mirror, StatusStore
from redis_kvpoll.replica.follow import HEARTBEAT

Store = StatusStore | AsyncStatusStore
Calls = list[Callable[[], Awaitable[None]]]

WAIT = 0.1
"""Seconds that a wait is given."""
MEANWHILE = 0.006
"""Seconds between calls: all workers together are to keep two CPUs busy, not to drown them."""


class Caller(Notes):
    """Makes plain calls."""

    def __init__(self, store: Store, mirror: Mirror | AsyncMirror, writer: Writer, seed: str, start: float) -> None:
        super().__init__(writer, seed, start)
        self._store = store
        self._mirror = mirror
        lot: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (12, self._update),
            (3, self._update_many),
            (2, self._abort),
            (2, self._clear),
            (1, self._clear_many),
            (5, self._get),
            (3, self._poll),
            (1, self._touch),
            (1, self._record_failure),
            (1, self._wait),
        ]
        self._lot: Calls = [call for weight, call in lot for _ in range(weight)]

    async def call(self) -> None:
        """One call, and a look at the mirror."""
        await self._chance.choice(self._lot)()
        self._look(self._room())

    async def _update(self) -> None:
        room, status = self._room(), self._status()
        await self._note("update", {room: status}, lambda: self._store.update_status(room, status), _alone)

    async def _update_many(self) -> None:
        statuses = {room: self._status() for room in self._some(4)}
        await self._note("update_many", statuses, lambda: self._store.update_many(statuses), _as_told)

    async def _abort(self) -> None:
        room = self._room()
        await self._note("abort", {room: None}, lambda: self._store.abort(room, "by chance"), _alone)

    async def _clear(self) -> None:
        room = self._room()
        await self._note("clear", {room: None}, lambda: self._store.clear(room), _alone)

    async def _clear_many(self) -> None:
        rooms = self._some(3)
        await self._note("clear_many", dict.fromkeys(rooms), lambda: self._store.clear_many(rooms), _as_told)

    async def _get(self) -> None:
        room = self._room()
        await self._note("get", {room: None}, lambda: self._store.get(room), _alone)

    async def _poll(self) -> None:
        rooms = self._some(8)
        await self._note("poll", dict.fromkeys(rooms), lambda: self._store.poll(rooms), _in_order)

    async def _touch(self) -> None:
        rooms = self._some(4)
        await self._note("touch", dict.fromkeys(rooms), lambda: self._store.touch(rooms), _unsaid)

    async def _record_failure(self) -> None:
        room = self._room()
        await self._note("record_failure", {room: None}, lambda: self._store.record_failure(room, "noted"), _unsaid)

    async def _wait(self) -> None:
        room, status = self._room(), self._status()
        await self._note("wait", {room: WAIT}, lambda: self._store.wait(room, status, timeout=WAIT), _alone)

    def _look(self, room: int) -> None:
        """What the mirror says of a room was true at some time since it was last known to be current.

        That is counted from when the answer was heard, which may be as late as the mirror takes for prompt.
        """
        since = time.monotonic() - self._mirror.lag - 2 * HEARTBEAT
        if self._mirror.synced:
            self._writer.saw(room, self._mirror.get(room), since)


def _alone(rooms: list[int], answer: Any) -> dict[int, Any]:
    return {rooms[0]: answer}


def _as_told(rooms: list[int], answer: Any) -> dict[int, Any]:
    return dict(answer)


def _in_order(rooms: list[int], answer: Any) -> dict[int, Any]:
    return dict(zip(rooms, answer, strict=True))


def _unsaid(rooms: list[int], answer: Any) -> dict[int, Any]:
    return {}
