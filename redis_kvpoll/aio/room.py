"""The handle of a room that was opened or attached.

Invariant: a write through it changes only its own generation of the room.
"""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self, TypeVar

from redis_kvpoll.aio.dispatcher import AsyncDispatcher
from redis_kvpoll.aio.single_calls import update_handle
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.model import KVPoll, Update
from redis_kvpoll.protocol import fenced_commands
from redis_kvpoll.protocol.handle import Handle
from redis_kvpoll.protocol.script_call import Command

T = TypeVar("T")
V = TypeVar("V")

logger = logging.getLogger("redis_kvpoll")


class AsyncRoom(Handle[AsyncDispatcher]):
    """Room for asyncio: an async context manager, whose methods are awaited."""

    async def status(self) -> KVPoll | None:
        """The status of this generation; None when it is gone."""
        return await self._run(fenced_commands.status(self._id, self._generation))

    async def update(self, status: KVPoll | int) -> Update:
        """Merge a status into the room; STALE when this generation is gone."""
        dispatcher = self._require_dispatcher("update")
        began = time.monotonic()
        value = await update_handle(dispatcher, self._id, self._generation, status)
        if dispatcher.executor.recovery.tracked_rooms.awaits_creator(self._id):
            command = fenced_commands.update(self._id, self._generation, status)
            value = await dispatcher.run(dispatcher.executor.await_creator(command, value, began))
        return value

    async def fail(self, reason: str) -> Update:
        """Fail the room with a reason, in one step; STALE when this generation is gone."""
        return await self._run(fenced_commands.fail(self._id, self._generation, reason))

    async def clear(self) -> Update:
        """Remove the room: CLEARED with the status that it had, or STALE when this generation is gone."""
        return await self._run(fenced_commands.clear(self._id, self._generation))

    async def set_decode_prefix_len(self, length: int) -> bool:
        """Record how many tokens of the prompt the decode side holds already; False when this generation is gone."""
        return await self._run(fenced_commands.set_decode_prefix_len(self._id, self._generation, length))

    async def decode_prefix_len(self) -> int:
        """The length recorded for this generation, or for the room before it was opened; 0 when there is none."""
        return await self._run(fenced_commands.decode_prefix_len(self._id, self._generation))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.clear()
        except KVPollError as failure:
            if error is None:
                raise
            logger.warning("room %d was not cleared at exit: %s", self._id, failure)

    async def _run(self, command: Command[V, T]) -> T:
        dispatcher = self._require_dispatcher(command.operation)
        began = time.monotonic()
        value = await dispatcher.execute(command)
        if dispatcher.executor.recovery.tracked_rooms.awaits_creator(self._id):
            value = await dispatcher.run(dispatcher.executor.await_creator(command, value, began))
        return value
