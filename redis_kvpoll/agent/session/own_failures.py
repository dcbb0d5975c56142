"""Failures in a client's own table: by another rank, by an operator, or because the client was lost.

A failure counts only for the generation that the current life of its room has in the table. So a failure that is read
late, after its room was cleared and opened again, fails nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from redis_kvpoll.agent.session.shared_table import SharedFailures
from redis_kvpoll.agent.session.told import ToldRooms
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.model import RoomFailure


class OwnFailures:
    """Fails the lives that have failed in the table.

    ``life_of`` gives the current life of a room, if the table has it with a generation. ``fail`` is called with a room,
    its life, the reason, and whether an operator did it.
    """

    def __init__(
        self,
        store: AsyncStatusStore,
        failures: SharedFailures,
        rooms: ToldRooms,
        life_of: Callable[[int, int], int | None],
        fail: Callable[[int, int, str, bool], object],
    ) -> None:
        self._store = store
        self._failures = failures
        self._rooms = rooms
        self._life_of = life_of
        self._fail = fail
        self._failing: set[asyncio.Task[None]] = set()

    def room_opened(self, room: int) -> None:
        """Look whether a room that the table has now has failed already."""
        if (failure := self._failures.get(room)) is not None:
            self.on_failure(failure)

    def on_failure(self, failure: RoomFailure) -> None:
        """Take note of a failure in the table."""
        if self._rooms.is_failed(failure.room):
            return
        number = self._life_of(failure.room, failure.generation)
        if number is not None:
            task = asyncio.create_task(self._fail_life(number, failure))
            self._failing.add(task)
            task.add_done_callback(self._failing.discard)

    async def _fail_life(self, number: int, failure: RoomFailure) -> None:
        if failure.reason is None:  # it may have come since
            with contextlib.suppress(KVPollError):
                entry = await self._store.entry(failure.room)
                if entry is not None and entry.generation == failure.generation:
                    failure = failure._replace(reason=entry.reason, by=entry.failed_by)
        self._fail(failure.room, number, failure.reason or "", failure.is_by_operator)
