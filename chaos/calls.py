"""Plain calls on a store, chosen at random. The same code drives blocking and asyncio stores."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from chaos.history import HistoryWriter
from chaos.recording import Recorder
from redis_kvpoll import AsyncMirror, AsyncStatusStore, Mirror, StatusStore
from redis_kvpoll.replica.follow import PRECISION

Store = StatusStore | AsyncStatusStore
Calls = list[Callable[[], Awaitable[None]]]

WAIT_TIMEOUT = 0.1
"""Seconds that a ``wait`` is given."""
CALL_INTERVAL = 0.006
"""Seconds between calls: all workers together keep two CPUs busy, but do not overload them."""


class PlainCaller(Recorder):
    """Makes and records plain calls."""

    def __init__(
        self, store: Store, mirrors: Sequence[Mirror | AsyncMirror], writer: HistoryWriter, seed: str, start: float
    ) -> None:
        super().__init__(writer, seed, start)
        self._store = store
        self._mirrors = mirrors
        weighted: list[tuple[int, Callable[[], Awaitable[None]]]] = [
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
        self._choices: Calls = [call for weight, call in weighted for _ in range(weight)]

    async def call(self) -> None:
        """Make one random call, then read a mirror."""
        await self._chance.choice(self._choices)()
        self._read_mirror(self._room())

    async def _update(self) -> None:
        room, status = self._room(), self._status()
        await self._record("update", {room: status}, lambda: self._store.update_status(room, status), _single)

    async def _update_many(self) -> None:
        statuses = {room: self._status() for room in self._some(4)}
        await self._record("update_many", statuses, lambda: self._store.update_many(statuses), _by_room)

    async def _abort(self) -> None:
        room = self._room()
        await self._record("abort", {room: None}, lambda: self._store.abort(room, "by chance"), _single)

    async def _clear(self) -> None:
        room = self._room()
        await self._record("clear", {room: None}, lambda: self._store.clear(room), _single)

    async def _clear_many(self) -> None:
        rooms = self._some(3)
        await self._record("clear_many", dict.fromkeys(rooms), lambda: self._store.clear_many(rooms), _by_room)

    async def _get(self) -> None:
        room = self._room()
        await self._record("get", {room: None}, lambda: self._store.get(room), _single)

    async def _poll(self) -> None:
        rooms = self._some(8)
        await self._record("poll", dict.fromkeys(rooms), lambda: self._store.poll(rooms), _in_order)

    async def _touch(self) -> None:
        rooms = self._some(4)
        await self._record("touch", dict.fromkeys(rooms), lambda: self._store.touch(rooms), _none)

    async def _record_failure(self) -> None:
        room = self._room()
        await self._record("record_failure", {room: None}, lambda: self._store.record_failure(room, "noted"), _none)

    async def _wait(self) -> None:
        room, status = self._room(), self._status()
        call = lambda: self._store.wait(room, status, timeout=WAIT_TIMEOUT)  # noqa: E731
        await self._record("wait", {room: WAIT_TIMEOUT}, call, _single)

    def _read_mirror(self, room: int) -> None:
        """Record a mirror's status of a room, which was true at some time since the mirror was last current.

        ``lag`` counts from the arrival of a reply, which may be older by PRECISION.
        """
        mirror = self._chance.choice(self._mirrors)
        since = time.monotonic() - mirror.lag - PRECISION
        if mirror.synced:
            self._writer.mirrored(room, mirror.get(room), since)


def _single(rooms: list[int], answer: Any) -> dict[int, Any]:
    return {rooms[0]: answer}


def _by_room(rooms: list[int], answer: Any) -> dict[int, Any]:
    return dict(answer)


def _in_order(rooms: list[int], answer: Any) -> dict[int, Any]:
    return dict(zip(rooms, answer, strict=True))


def _none(rooms: list[int], answer: Any) -> dict[int, Any]:
    return {}
