"""Room, for asyncio. The same as ``room``, awaited."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self, TypeVar

from redis_kvpoll.aiodispatch import Dispatcher
from redis_kvpoll.commands import Command, handles
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.handle import Handle
from redis_kvpoll.room import Room
from redis_kvpoll.status import KVPoll, Update
from redis_kvpoll.twins import share_docstrings

T = TypeVar("T")
V = TypeVar("V")

logger = logging.getLogger("redis_kvpoll")


class AsyncRoom(Handle[Dispatcher]):
    """Room for asyncio: an async context manager, whose methods are awaited."""

    async def status(self) -> KVPoll | None:
        return await self._run(handles.status(self._id, self._generation))

    async def update(self, status: KVPoll | int) -> Update:
        return await self._run(handles.update(self._id, self._generation, status))

    async def fail(self, reason: str) -> Update:
        return await self._run(handles.fail(self._id, self._generation, reason))

    async def clear(self) -> Update:
        return await self._run(handles.clear(self._id, self._generation))

    async def set_decode_prefix_len(self, length: int) -> bool:
        return await self._run(handles.set_decode_prefix_len(self._id, self._generation, length))

    async def decode_prefix_len(self) -> int:
        return await self._run(handles.decode_prefix_len(self._id, self._generation))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.clear()
        except KVPollError as trouble:
            if error is None:
                raise
            logger.warning("room %d was not cleared at exit: %s", self._id, trouble)

    async def _run(self, command: Command[V, T]) -> T:
        dispatcher = self._driver(command.operation)
        began = time.monotonic()
        value = await dispatcher.execute(command)
        if dispatcher.delivery.held.waits(self._id):
            value = await dispatcher.run(dispatcher.delivery.insist(command, value, began))
        return value


share_docstrings(AsyncRoom, Room)
