"""The handle of a room that was opened or attached.

Invariant: a write through it changes only its own generation of the room.
"""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self, TypeVar

from redis_kvpoll.errors import KVPollError
from redis_kvpoll.model import KVPoll, Update
from redis_kvpoll.protocol import fenced_commands
from redis_kvpoll.protocol.handle import Handle
from redis_kvpoll.protocol.script_call import Command
from redis_kvpoll.sync.dispatcher import Dispatcher
from redis_kvpoll.sync.single_calls import update_handle

T = TypeVar("T")
V = TypeVar("V")

logger = logging.getLogger("redis_kvpoll")


class Room(Handle[Dispatcher]):
    """One generation of a room, to write to: ``StatusStore.open`` creates or joins it, ``attach`` finds it.

    Its writes merge by the policy strict, whatever the namespace's: statuses only rise, and Failed is final. Once the
    room was cleared, has expired or was opened again, every write is STALE and changes nothing; so a write whose reply
    was lost is sent again. After the server has lost its data, the store replays its rooms before the next call.

    As a context manager it clears the room at exit. If the block raised, a failed clear is only logged.

    Its methods raise what every call of the store may raise. When the store's lease was lost, ``update``, ``fail`` and
    ``set_decode_prefix_len`` raise LeaseLostError; ``clear`` and reads do not.
    """

    def status(self) -> KVPoll | None:
        """The status of this generation; None when it is gone."""
        return self._run(fenced_commands.status(self._id, self._generation))

    def update(self, status: KVPoll | int) -> Update:
        """Merge a status into the room; STALE when this generation is gone."""
        dispatcher = self._require_dispatcher("update")
        began = time.monotonic()
        value = update_handle(dispatcher, self._id, self._generation, status)
        if dispatcher.executor.recovery.tracked_rooms.awaits_creator(self._id):
            command = fenced_commands.update(self._id, self._generation, status)
            value = dispatcher.run(dispatcher.executor.await_creator(command, value, began))
        return value

    def fail(self, reason: str) -> Update:
        """Fail the room with a reason, in one step; STALE when this generation is gone."""
        return self._run(fenced_commands.fail(self._id, self._generation, reason))

    def clear(self) -> Update:
        """Remove the room: CLEARED with the status that it had, or STALE when this generation is gone."""
        return self._run(fenced_commands.clear(self._id, self._generation))

    def set_decode_prefix_len(self, length: int) -> bool:
        """Record how many tokens of the prompt the decode side holds already; False when this generation is gone."""
        return self._run(fenced_commands.set_decode_prefix_len(self._id, self._generation, length))

    def decode_prefix_len(self) -> int:
        """The length recorded for this generation, or for the room before it was opened; 0 when there is none."""
        return self._run(fenced_commands.decode_prefix_len(self._id, self._generation))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.clear()
        except KVPollError as failure:
            if error is None:
                raise
            logger.warning("room %d was not cleared at exit: %s", self._id, failure)

    def _run(self, command: Command[V, T]) -> T:
        dispatcher = self._require_dispatcher(command.operation)
        began = time.monotonic()
        value = dispatcher.execute(command)
        if dispatcher.executor.recovery.tracked_rooms.awaits_creator(self._id):
            value = dispatcher.run(dispatcher.executor.await_creator(command, value, began))
        return value
