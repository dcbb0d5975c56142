"""The calls on one room that are made most, sent as bytes that are ready; see ``engine/ready_calls``.

Invariant: a call that was sent ends here, unless its script left it to the full path. So does one that was cancelled:
its turn ends with its reply.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from redis.exceptions import NoScriptError, RedisError, ResponseError

from redis_kvpoll.aio.callers import AsyncShardQueue
from redis_kvpoll.aio.dispatcher import AsyncDispatcher
from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import PendingCall, Send
from redis_kvpoll.model import KVPoll, Update
from redis_kvpoll.protocol import fenced_commands, replies, room_commands
from redis_kvpoll.protocol.replies import NOT_A_STATUS, STATUSES
from redis_kvpoll.protocol.script_call import Command

D = TypeVar("D")
T = TypeVar("T")
V = TypeVar("V")


class AsyncSingleCalls:
    """The calls of one asyncio store."""

    def __init__(self, dispatcher: AsyncDispatcher) -> None:
        self._dispatcher = dispatcher
        self._ready = dispatcher.ready

    def update_status(self, room: int, status: KVPoll | int) -> Awaitable[Update]:
        # Without a coroutine of its own for a call that joins a batch.
        queue = self._dispatcher.free_queue(self._ready.tag)
        if queue is not None and (packed := self._ready.pack_update(room, status)) is not None:
            return self._send_update(queue, packed, room, status)
        return self._dispatcher.execute(room_commands.update_status(room, status))

    def get(self, room: int, default: D) -> Awaitable[KVPoll | D]:
        return self._read(room_commands.get, room, default)

    def check_status(self, room: int) -> Awaitable[KVPoll]:
        return self._read(room_commands.check_status, room)

    def _read(self, build: Callable[..., Command[Any, Any]], *args: Any) -> Awaitable[Any]:
        """Read the status of a room. ``build(*args)`` is the full command."""
        queue = self._dispatcher.free_queue(self._ready.tag)
        if queue is not None and (packed := self._ready.pack_get(args[0])) is not None:
            return self._send_read(queue, packed, build, args)
        return self._dispatcher.execute(build(*args))

    async def _send_read(
        self, queue: AsyncShardQueue, packed: bytes, build: Callable[..., Command[Any, Any]], args: Sequence[Any]
    ) -> Any:
        dispatcher, sent_at = self._dispatcher, time.monotonic()
        status: Any = NOT_A_STATUS
        try:
            status = STATUSES.get(await _send(dispatcher, queue, packed, _ignore), NOT_A_STATUS)
        except ResponseError:
            pass  # a key of another type, or a command that is not permitted: the script tells it apart
        except (NotSent, RedisError, OSError) as error:
            return await self._repeat(queue, build(*args), sent_at, error)
        if status is NOT_A_STATUS:
            return await self._repeat(queue, build(*args), sent_at, None)
        dispatcher.end_turn(queue)
        if status is not None:
            return status
        command = build(*args)
        return command.finish(command.rooms, [None])

    async def _send_update(self, queue: AsyncShardQueue, packed: bytes, room: int, status: KVPoll | int) -> Update:
        ready, dispatcher, sent_at = self._ready, self._dispatcher, time.monotonic()
        server = ready.servers.get(ready.tag)

        def complete(reply: bytes | None) -> None:  # of a call that was cancelled
            if reply is not None and ready.decode_update(reply, status) is None:
                ready.accept_update_reply(room_commands.update_status(room, status), server, reply)

        reply, first_error = None, None
        try:
            try:
                reply = await _send(dispatcher, queue, packed, complete)
            except NoScriptError:
                reply = await _send(dispatcher, queue, ready.pack_update_with_source(room, status), complete)
        except (NotSent, RedisError, OSError) as error:
            first_error = error
        if reply is None:  # it has failed, or the script has left it to update.lua
            return await self._repeat(queue, room_commands.update_status(room, status), sent_at, first_error)
        dispatcher.end_turn(queue)
        if (update := ready.decode_update(reply, status)) is not None:
            return update
        command = room_commands.update_status(room, status)
        return await dispatcher.run(ready.take_over(command, sent_at, server, reply, None))

    async def _repeat(
        self, queue: AsyncShardQueue, command: Command[V, T], sent_at: float, error: Exception | None
    ) -> T:
        """Repeat a call, which has failed or needs more, as one of the full path, in its turn."""
        pending = PendingCall(self._ready.full_call(command), sent_at + self._dispatcher.executor.deadline, command)
        result: T = await self._dispatcher.repeat(queue, pending, error)
        return result


async def update_handle(dispatcher: AsyncDispatcher, room: int, generation: int, status: KVPoll | int) -> Update:
    """Merge a status into one generation of a room."""
    ready = dispatcher.ready
    found = ready.pack_fenced_update(room, generation, status)
    if found is None or (queue := dispatcher.free_queue(ready.tag)) is None:
        return await dispatcher.execute(fenced_commands.update(room, generation, status))
    packed, call = found
    executor, server, sent_at, error = dispatcher.executor, ready.servers.get(ready.tag), time.monotonic(), None
    tokens = executor.session.sync_tokens()

    def complete(reply: list[Any] | None) -> list[Any] | None:
        return executor.recovery.accept_reply(call, server, tokens, reply) if reply else None

    own = None
    try:
        try:
            reply = await _send(dispatcher, queue, packed, complete)
        except NoScriptError:
            reply = await _send(dispatcher, queue, ready.pack_fenced_update_with_source(call, status), complete)
    except (NotSent, RedisError, OSError) as failure:
        error = failure
    else:
        try:
            own = complete(reply)
        except BaseException:
            dispatcher.end_turn(queue)
            raise
    command = fenced_commands.update(room, generation, status)
    if not own:  # the case is not the usual one, or data was lost
        updated: Update = await dispatcher.repeat(queue, PendingCall(call, sent_at + executor.deadline, command), error)
        return updated
    dispatcher.end_turn(queue)
    if (update := replies.update(own)) is not None:
        return update
    return command.finish(command.rooms, executor.decode(command, command.rooms, own))


async def _send(
    dispatcher: AsyncDispatcher, queue: AsyncShardQueue, packed: bytes, complete: Callable[[Any], object]
) -> Any:
    """Send a call that occupies its queue until the turn is ended. ``complete`` gets the reply if it is cancelled."""
    queue.batch, ready = packed, dispatcher.ready
    send = Send(ready.tag, (), server=ready.servers.get(ready.tag), packed=packed)
    try:
        return await dispatcher.transport.call_packed(send)
    except (NotSent, RedisError, OSError):
        raise
    except BaseException:
        dispatcher.observe_rest(queue, send, complete)
        raise


def _ignore(reply: object) -> None:
    """Do nothing with the reply to a read that was cancelled."""
