"""The short way of a call on one room, for the case that nothing but its result concerns the store.

A call is ready if the settings are verified and the shard is current; a plain update, if besides the store tracks no
room, holds no lease and has no mirror. A driver sends its bytes and takes the result from the reply. Whatever else
comes up, an error included, is left to the full path: ``take_over`` goes on where the short way ends. A fenced update
saves only the making of its call: its reply is processed as ever.

A call of a Python function takes 0.4 us here: during a round trip the caches go cold. So this path has few functions,
and repeats some code.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.model import KVPoll, Update
from redis_kvpoll.protocol import packed
from redis_kvpoll.protocol.packed import PackedCommand, PackedWrite
from redis_kvpoll.protocol.script_call import Call, CallContext, Command

T = TypeVar("T")
V = TypeVar("V")

TAKE_FULL_PATH: Any = object()
"""Instead of a reply: nothing was sent, and the call has to take the full path."""


class _Prepared(NamedTuple):
    context: CallContext | None = None
    update: PackedCommand | None = None
    get: PackedCommand | None = None
    write: PackedWrite | None = None


class ReadyCalls:
    """The ready calls of one store. All are for its only shard, ``tag``."""

    def __init__(self, executor: Executor) -> None:
        self._executor, self._session, self._recovery = executor, executor.session, executor.recovery
        self._prepared = _Prepared()
        self.tag = executor.namespace
        self.servers = executor.recovery.servers
        """By tag, the server that must execute them."""

    def pack_update(self, room: int, status: KVPoll | int) -> bytes | None:
        """Return the bytes of an update, None if it is not ready."""
        command, recovery = self._current().update, self._recovery
        if command is None or recovery.lease is not None or recovery.tracked_rooms.shards or self._session.observers:
            return None
        return command.pack(room, status)

    def pack_update_with_source(self, room: int, status: KVPoll | int) -> bytes:
        """Return the bytes of an update whose script the server lacks."""
        sent = packed.update_command(self._context, has_source=True).pack(room, status)
        assert sent is not None  # noqa: S101 - pack_update has returned bytes
        return sent

    def pack_get(self, room: int) -> bytes | None:
        """Return the bytes of a read, None if it is not ready."""
        command = self._current().get
        return command.pack(room, None) if command is not None else None

    def pack_fenced_update(self, room: int, generation: int, status: KVPoll | int) -> tuple[bytes, Call] | None:
        """Return the bytes of a fenced update and its call, None if it is not ready.

        ``Recovery.accept_reply`` has to process the reply.
        """
        command, lease = self._current().write, self._recovery.lease
        return command.pack(room, generation, status) if command and (lease is None or not lease.lost) else None

    def pack_fenced_update_with_source(self, call: Call, status: KVPoll | int) -> bytes:
        """Return the bytes of a fenced update whose script the server lacks. ``call`` came with its first bytes."""
        sent = PackedWrite(self._context, has_source=True).pack(call.rooms[0], int(call.room_args[1]), status)
        assert sent is not None  # noqa: S101 - pack_fenced_update has returned bytes
        return sent[0]

    def decode_update(self, reply: bytes | None, status: KVPoll | int) -> Update | None:
        """Return the result in the reply to an update; None if the full path has to go on."""
        recovery = self._recovery
        if recovery.lease is not None or recovery.tracked_rooms.shards or self._session.observers or reply is None:
            return None
        return packed.UPDATES[status].get(reply[:1])

    def take_over(
        self, command: Command[V, T], sent_at: float, server: bytes | None, reply: Any, error: Exception | None
    ) -> Flow[T]:
        """Complete a command on the full path: by the reply to its ready call, or the error that came instead."""
        own = self.accept_update_reply(command, server, reply) if reply is not None else None
        if own is None:
            own = yield from self.repeat(command, self.full_call(command), sent_at, error)
        return command.finish(command.rooms, self._executor.decode(command, command.rooms, own))

    def repeat(self, command: Command[V, T], call: Call, sent_at: float, error: Exception | None) -> Flow[list[Any]]:
        """Repeat on the full path a call that was sent."""
        return self._executor.recover_call(command, call, sent_at, error)

    def accept_update_reply(self, command: Command[V, T], server: bytes | None, reply: bytes) -> list[Any] | None:
        """As ``Executor.complete``, for an update during which the store got an observer, a lease or a room."""
        call = self.full_call(command)
        return self._recovery.accept_reply(call, server, (), packed.update_reply(reply, *command.room_args))

    def full_call(self, command: Command[V, T]) -> Call:
        """Return the script call of a command: without a lease, even if one has begun meanwhile."""
        (call,) = command.calls(replace(self._context, owner="", incarnation=""))
        return call

    @property
    def _context(self) -> CallContext:
        assert self._session.context is not None  # noqa: S101 - a call was ready
        return self._session.context

    def _current(self) -> _Prepared:
        """Return what can be sent at once; nothing if something must be verified first."""
        session, recovery, prepared = self._session, self._recovery, self._prepared
        if session.closed or time.monotonic() >= session.valid_until or recovery.unverified:
            return _NOTHING
        if (recovery.members or recovery.tracked_rooms.awaiting_shards) and not recovery.is_current:
            return _NOTHING
        if prepared.context is not session.context:
            prepared = self._prepared = self._prepare(session.context)
        return prepared

    def _prepare(self, context: CallContext | None) -> _Prepared:
        if context is None or context.rank or context.shards != 1:
            return _Prepared(context)
        if self._session.read_only:
            return _Prepared(context, get=packed.get_command(context))
        return _Prepared(
            context,
            update=packed.update_command(context) if context.feed_length != "0" else None,
            get=packed.get_command(context),
            write=PackedWrite(context) if context.feed_length != "0" else None,
        )


_NOTHING = _Prepared()
