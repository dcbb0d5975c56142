"""The calls on one room that are made most, sent as bytes that are ready; see ``engine/ready_calls``.

Invariant: a call that was sent ends here, except a read, which may be repeated. What was not sent takes the full path
from its beginning.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from redis.exceptions import NoScriptError, RedisError, ResponseError

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.ready_calls import TAKE_FULL_PATH
from redis_kvpoll.errors import RoomNotFoundError
from redis_kvpoll.model import KVPoll, Update
from redis_kvpoll.protocol import fenced_commands, replies, room_commands
from redis_kvpoll.protocol.replies import NOT_A_STATUS, STATUSES
from redis_kvpoll.protocol.script_call import Call, Command
from redis_kvpoll.sync.dispatcher import Dispatcher

D = TypeVar("D")
T = TypeVar("T")


class SingleCalls:
    """The calls of one blocking store."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._ready = dispatcher.ready

    def update_status(self, room: int, status: KVPoll | int) -> Update:
        ready, dispatcher = self._ready, self._dispatcher
        if (packed := ready.pack_update(room, status)) is not None:
            update: Update = dispatcher.send_alone(ready.tag, packed, self._send_update, packed, room, status)
            if update is not TAKE_FULL_PATH:
                return update
        return dispatcher.execute(room_commands.update_status(room, status))

    def get(self, room: int, default: D) -> KVPoll | D:
        ready, dispatcher, build = self._ready, self._dispatcher, room_commands.get
        if (packed := ready.pack_get(room)) is not None:
            status = dispatcher.send_alone(ready.tag, packed, self._send_read, packed, build, room, default)
            if status is not TAKE_FULL_PATH:
                return default if status is None else status
        return dispatcher.execute(build(room, default))

    def check_status(self, room: int) -> KVPoll:
        ready, dispatcher, build = self._ready, self._dispatcher, room_commands.check_status
        if (packed := ready.pack_get(room)) is not None:
            status: KVPoll | None = dispatcher.send_alone(ready.tag, packed, self._send_read, packed, build, room)
            if status is None:
                raise RoomNotFoundError(room)
            if status is not TAKE_FULL_PATH:
                return status
        return dispatcher.execute(build(room))

    def _send_update(self, packed: bytes, room: int, status: KVPoll | int) -> Any:
        ready, call_packed, sent_at = self._ready, self._dispatcher.transport.call_packed, time.monotonic()
        server, reply, first_error = ready.servers.get(ready.tag), None, None
        try:
            try:
                reply = call_packed(packed, server)
            except NoScriptError:
                reply = call_packed(ready.pack_update_with_source(room, status), server)
        except (NotSent, RedisError, OSError) as error:
            first_error = error
        else:
            if reply is TAKE_FULL_PATH:
                return TAKE_FULL_PATH
            if (update := ready.decode_update(reply, status)) is not None:
                return update
        command = room_commands.update_status(room, status)
        return self._dispatcher.run(ready.take_over(command, sent_at, server, reply, first_error))

    def _send_read(self, packed: bytes, build: Callable[..., Command[Any, Any]], *args: Any) -> Any:
        """Return the status of a room, None if it is absent, or TAKE_FULL_PATH.

        ``build(*args)`` is the full command, whose result it may be.
        """
        ready, sent_at = self._ready, time.monotonic()
        server, first_error = ready.servers.get(ready.tag), None
        try:
            reply = self._dispatcher.transport.call_packed(packed, server)
        except ResponseError:
            pass  # a key of another type, or a command that is not permitted: the script tells it apart
        except (NotSent, RedisError, OSError) as error:
            first_error = error
        else:
            if reply is TAKE_FULL_PATH:
                return TAKE_FULL_PATH
            if (status := STATUSES.get(reply, NOT_A_STATUS)) is not NOT_A_STATUS:
                return status
        return self._dispatcher.run(ready.take_over(build(*args), sent_at, server, None, first_error))


def update_handle(dispatcher: Dispatcher, room: int, generation: int, status: KVPoll | int) -> Update:
    """Merge a status into one generation of a room."""
    ready = dispatcher.ready
    if (found := ready.pack_fenced_update(room, generation, status)) is not None:
        packed, call = found
        update: Update = dispatcher.send_alone(ready.tag, packed, _send_write, dispatcher, packed, call, status)
        if update is not TAKE_FULL_PATH:
            return update
    return dispatcher.execute(fenced_commands.update(room, generation, status))


def _send_write(dispatcher: Dispatcher, packed: bytes, call: Call, status: KVPoll | int) -> Any:
    ready, executor, sent_at = dispatcher.ready, dispatcher.executor, time.monotonic()
    server, tokens, own, first_error = ready.servers.get(ready.tag), executor.session.sync_tokens(), None, None
    try:
        try:
            reply = dispatcher.transport.call_packed(packed, server)
        except NoScriptError:
            reply = dispatcher.transport.call_packed(ready.pack_fenced_update_with_source(call, status), server)
    except (NotSent, RedisError, OSError) as error:
        first_error = error
    else:
        if reply is TAKE_FULL_PATH:
            return TAKE_FULL_PATH
        own = executor.recovery.accept_reply(call, server, tokens, reply) if reply else None
        if own and (update := replies.update(own)) is not None:
            return update
    command = fenced_commands.update(call.rooms[0], int(call.room_args[1]), status)
    if not own:  # the case is not the usual one, or data was lost
        own = dispatcher.run(ready.repeat(command, call, sent_at, first_error))
    return command.finish(command.rooms, executor.decode(command, command.rooms, own))
