"""The executor of a store: it turns a command into script calls, and their replies or failures into its result.

A driver executes a command in one of two ways. One that is a single call to a free queue: ``calls`` and ``prepare``,
then ``complete`` and ``decode``, or ``recover_call`` after a failure. Any other: the flow ``run``, whose calls are
queued and sent by ``send_batch``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from redis.exceptions import ResponseError

from redis_kvpoll.engine import classify, eviction
from redis_kvpoll.engine.batching import Batch, waves
from redis_kvpoll.engine.classify import ServerChanged
from redis_kvpoll.engine.effects import AwaitCalls, Flow, PendingCall, Send, Sleep
from redis_kvpoll.engine.recovery.recovery import Recovery
from redis_kvpoll.engine.recovery.tracked_rooms import CREATOR_POLL_INTERVAL
from redis_kvpoll.engine.recovery.tracking import CLEARING
from redis_kvpoll.engine.retry import Attempts, CallFailed, after_some, describe_queued
from redis_kvpoll.engine.session import Session, SyncTokens
from redis_kvpoll.errors import (
    KVPollError,
    OutcomeUnknownError,
    ServerRefusedError,
    StoreUnavailableError,
    WorldSizeMismatchError,
)
from redis_kvpoll.model import KVPoll, Outcome, Update
from redis_kvpoll.protocol.handle import Handle, identity_of
from redis_kvpoll.protocol.script_call import Call, CallContext, Command
from redis_kvpoll.protocol.scripts import READING
from redis_kvpoll.protocol.settings import SETTINGS

T = TypeVar("T")
V = TypeVar("V")


class Executor:
    """The engine of one store, blocking or asyncio."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.recovery = Recovery(session)
        self.deadline = session.deadline
        self._checked_eviction = False

    @property
    def namespace(self) -> str:
        return self.session.namespace

    def context(self, operation: str) -> Flow[CallContext]:
        """Return the context, for an operation of several commands."""
        self.session.check_open(operation)
        return self.session.verified_context or (yield from self._establish_context(operation))

    # A call that is alone in its queue: calls, prepare, complete and decode; recover_call after a failure

    def calls(self, command: Command[V, T]) -> list[Call]:
        """Return the script calls of a command that can be sent at once; empty if something must be verified first."""
        session = self.session
        session.check_open(command.operation)
        if session.read_only and command.spec.script.name not in READING:
            session.check_writable(command.operation)
        context = session.verified_context
        if context is None or not command.rooms:
            return []
        calls = self.recovery.build_calls(command, context)
        return [] if self.recovery.needs_check([call.tag for call in calls]) else calls

    def prepare(self, call: Call, batch: Batch | None = None) -> Send:
        """Return the first attempt of a call, that of a ``batch`` if there is one, to a shard that is current."""
        tag, recovery = call.tag, self.recovery
        send = Send(tag, call.words(), None, not call.spec.repeatable, None, (), recovery.servers.get(tag))
        if call.spec in CLEARING:  # a batch that is not sent yet may lose callers
            send.on_sent = lambda: recovery.members.mark_clearing(batch.call if batch else call)
        return send

    def complete(
        self, call: Call, server: bytes | None, tokens: SyncTokens, reply: list[Any], is_repeated: bool = False
    ) -> tuple[list[Any], bool]:
        """Process a reply. Returns the fields of the rooms that are done, and whether these are all rooms of the call:
        if not, the rest must be sent again."""
        done = self.recovery.accept_reply(call, server, tokens, reply, is_repeated)
        if done is None:
            return [], False
        return done, not call.spec.may_stop or len(done) >= len(call.rooms) * len(call.spec.reply)

    def recover_call(
        self, command: Command[V, T], call: Call, sent_at: float, error: Exception | None, done: Sequence[Any] = ()
    ) -> Flow[list[Any]]:
        """Repeat a command's only call, first sent at ``sent_at``, or the rest of it after what is ``done``."""
        pending = PendingCall(call, sent_at + self.deadline)
        yield from self.send_batch(Batch([pending], replied=done), error)
        return self.reply_of(command, pending)

    # Any other command

    def run(self, command: Command[V, T], calls: list[Call], give_up_at: float | None = None) -> Flow[T]:
        """Queue a command's calls and return its result. If ``calls`` are empty, they are not built yet."""
        rooms, give_up_at = command.rooms, give_up_at or self._give_up_at
        if not rooms:
            return command.finish(rooms, [])
        if not calls:
            # A known context is used even if it is due for verification: send_batch verifies it before it sends.
            # Waiting for that here would let later calls overtake this one.
            context = self.session.context or (yield from self._establish_context(command, give_up_at))
            calls = self.recovery.build_calls(command, context)
        if len(calls) == 1:
            replies = yield from self._enqueue(command, calls, give_up_at)
            return command.finish(rooms, self.decode(command, rooms, replies[0]))
        values: list[Any] = [None] * len(rooms)
        done = 0
        for wave in waves(calls):
            replies = yield from self._enqueue(command, wave, give_up_at, done)
            give_up_at = self._give_up_at  # a deadline for each round trip
            for call, reply in zip(wave, replies, strict=True):
                done += len(call.rooms)
                some = self.decode(command, call.rooms, reply)
                for position, value in zip(call.positions, some, strict=True):
                    values[position] = value
        return command.finish(rooms, values)

    def decode(self, command: Command[V, T], rooms: list[int], reply: list[Any]) -> list[V]:
        """Return the value of each room in a reply, or raise the error that the reply reports."""
        try:
            return command.decode(command.operation, rooms, reply)
        except WorldSizeMismatchError as error:
            ours = self.session.identity.world_size  # a reply has only the room's
            raise WorldSizeMismatchError(error.room, error.operation, error.theirs, ours) from None
        except ResponseError as error:  # the script was denied a command
            refused = CallFailed(ServerRefusedError, classify.describe_rejection(error))
            raise refused.named(self._name(command), self.session.server) from error

    def send_batch(self, batch: Batch, first_error: Exception | None = None) -> Flow[None]:
        """Send a batch and complete its pending calls; ``first_error`` is that of an attempt that was made before."""
        now = time.monotonic()
        if first_error is None and batch.give_up_at <= now:
            what = describe_queued(self.session, batch.call.tag)
            return batch.fail(CallFailed(StoreUnavailableError, what, until=now))
        attempts = Attempts(self.session, batch.give_up_at)
        try:
            if batch.call.spec is SETTINGS:
                changes = self.session.server_changes
                reply = yield from attempts.ask_settings(first_error)
                # Before the settings are known: all who wait for them wake together then, in the order of their calls.
                yield from self._check_eviction(batch.give_up_at)
                return batch.distribute([self.session.adopt_settings(reply, changes)])
            reply = yield from self._send_to_current(batch, attempts, first_error)
        except (CallFailed, KVPollError) as failure:
            return batch.fail(failure)
        return batch.distribute(reply)

    def _send_to_current(self, batch: Batch, attempts: Attempts, error: Exception | None) -> Flow[list[Any]]:
        """Send a batch to a shard that is current. Returns the part of the reply that belongs to its rooms."""
        recovery, (tag, spec) = self.recovery, (batch.call.tag, batch.call.spec)
        while True:
            try:
                if error is None:
                    yield from recovery.make_current(tag, attempts, batch.call)
                tokens, send = self.session.sync_tokens(), self.prepare(batch.call, batch)
                batch.send, failed, error = send, error, None
                reply = yield from attempts.send(send, spec.repeatable, spec.script, failed, batch.words_again)
            except ServerChanged as changed:
                recovery.server_changed(tag, changed.server)
                yield from attempts.server_changed(changed)
                continue
            done, is_whole = self.complete(batch.call, send.server, tokens, reply, attempts.is_repeated)
            if is_whole:
                return done
            if done:
                batch.add(done)

    def await_creator(self, command: Command[V, T], value: T, began: float) -> Flow[T]:
        """Return ``value``, or the value after the creator of a lost room has replayed it.

        A handle that is only attached cannot replay its room. The deadline counts from ``began``.
        """
        give_up_at, took = began + self.deadline, time.monotonic() - began
        while _is_missing(value) and self.recovery.tracked_rooms.awaits_creator(command.rooms[0]):
            # A call with less time than the last one took would replace a valid answer by a timeout.
            if time.monotonic() + CREATOR_POLL_INTERVAL + 2 * took >= give_up_at:
                break
            yield Sleep(CREATOR_POLL_INTERVAL)
            sent_at = time.monotonic()
            if sent_at >= give_up_at:
                break
            value = yield from self.run(command, [], give_up_at)
            took = time.monotonic() - sent_at
        return value

    def adopt_handle(self, handle: Handle[Any]) -> tuple[str, int, int, str | None]:
        """Return the identity of a handle for a handle of this store.

        Raises:
            InvalidInputError: the handle belongs to another namespace, or was not made by a store.
        """
        self.session.check_open("attach")
        return identity_of(handle, self.namespace)

    def send_calls(self, operation: str, calls: list[Call]) -> Flow[list[list[Any]]]:
        """Send calls outside of a command, at most one per shard, through their queues. Returns the replies."""
        return (yield from self._enqueue(operation, calls, self._give_up_at))

    def _enqueue(
        self, command: Command[Any, Any] | str, calls: list[Call], give_up_at: float, done: int = 0
    ) -> Flow[list[Any]]:
        """Queue calls, one per shard, and wait until all are done. Returns the replies."""
        pending_calls = [PendingCall(call, give_up_at) for call in calls]
        yield AwaitCalls(pending_calls)
        return self.replies_of(command, pending_calls, done)

    def reply_of(self, command: Command[Any, Any], pending: PendingCall) -> list[Any]:
        """Return the reply of a command's only call, or raise its failure."""
        reply = pending.reply
        return self.replies_of(command, [pending])[0] if reply is None else reply

    def replies_of(
        self, command: Command[Any, Any] | str, pending_calls: list[PendingCall], done: int = 0
    ) -> list[list[Any]]:
        """Return the replies of the calls, or raise a failure under the operation's name: the first that leaves open
        what was executed, else the first. A reply counts, also of a sender that the call had been given up on for."""
        for pending in pending_calls:
            if pending.reply is not None:
                done += len(pending.call.rooms)
        failures = [pending.failure for pending in pending_calls if pending.reply is None and pending.failure]
        if failures:
            failure = next(filter(_is_unknown, failures), failures[0])
            if done and not pending_calls[0].call.spec.repeatable:
                failure = after_some(failure)
            if isinstance(failure, CallFailed):
                raise failure.named(self._name(command, done), self.session.server) from failure.__cause__
            raise copy.copy(failure)  # each caller of a batch needs its own traceback
        return [pending.reply for pending in pending_calls if pending.reply is not None]

    def send_command(self, operation: str, tag: str, words: list[str], give_up_at: float | None = None) -> Flow[Any]:
        """Send a read-only command without queueing it. Returns the reply."""
        return (yield from self.send_read(operation, Send(tag, words), give_up_at))

    def send_read(self, operation: str, send: Send, give_up_at: float | None = None) -> Flow[Any]:
        """Send a read-only command, to ``send.server`` if that is set. Returns the reply, or raises ServerChanged."""
        try:
            return (yield from Attempts(self.session, give_up_at or self._give_up_at).send(send))
        except CallFailed as failure:
            raise failure.named(self._name(operation), self.session.server) from failure.__cause__

    @property
    def _give_up_at(self) -> float:
        """The deadline of a call that starts now."""
        return time.monotonic() + self.deadline

    def _name(self, command: Command[Any, Any] | str, done: int = 0) -> str:
        """Return an operation's name for errors, with its rooms: up to three, and the number of the others."""
        if isinstance(command, str):
            return f"{command} of namespace {self.namespace!r}"
        rooms = command.rooms
        if len(rooms) == 1:
            return f"{command.operation} of room {rooms[0]}"
        shown = ", ".join(map(str, rooms[:3]))
        more = f" and {len(rooms) - 3:,} more" if len(rooms) > 3 else ""
        return f"{command.operation} of rooms {shown}{more}" + (f" ({done:,} done)" if done else "")

    def _establish_context(
        self, command: Command[Any, Any] | str, give_up_at: float | None = None
    ) -> Flow[CallContext]:
        """Verify the settings, within a call's deadline. Concurrent callers share one call."""
        give_up_at = give_up_at or self._give_up_at
        ((context,),) = yield from self._enqueue(command, [self.session.expected_settings.call()], give_up_at)
        return cast(CallContext, context)

    def _check_eviction(self, give_up_at: float) -> Flow[None]:
        """Warn, once for a store, of a server that may evict its keys."""
        if self._checked_eviction:
            return
        self._checked_eviction = True
        try:
            memory = yield from Attempts(self.session, give_up_at).send(Send(self.namespace, ["INFO", "memory"]))
        except CallFailed:
            return  # fakeredis has no INFO, and an ACL may deny it
        eviction.warn(memory, self.namespace)


def _is_unknown(failure: Exception) -> bool:
    return isinstance(failure, CallFailed) and failure.kind is OutcomeUnknownError


def _is_missing(value: Any) -> bool:
    """Whether a handle's result is that of an absent room, or of a rank that has not been replayed yet."""
    if isinstance(value, Update):
        return value.outcome in (Outcome.STALE, Outcome.SKIPPED)
    return not value and not isinstance(value, KVPoll)  # Failed is 0
