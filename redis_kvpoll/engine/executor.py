"""What a store decides: which script calls carry a command out, and what their replies or failures come to. No I/O."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, TypeVar, cast

from redis_kvpoll.engine import eviction
from redis_kvpoll.engine.batching import Batch
from redis_kvpoll.engine.effects import AwaitCalls, Flow, PendingCall, Sleep
from redis_kvpoll.engine.recovery import Recovery
from redis_kvpoll.engine.retry import Attempts, CallFailed
from redis_kvpoll.engine.tracked_rooms import CREATOR_POLL_INTERVAL
from redis_kvpoll.errors import (
    FeedOffError,
    InvalidInputError,
    KVPollError,
    StoreUnavailableError,
    WorldSizeMismatchError,
)
from redis_kvpoll.model import KVPoll, Outcome, Update
from redis_kvpoll.protocol.feed import FeedReader
from redis_kvpoll.protocol.handle import Handle
from redis_kvpoll.protocol.scan import Scan
from redis_kvpoll.protocol.script_call import Call, CallContext, Command
from redis_kvpoll.protocol.settings import NAMES, SETTINGS, Settings

T = TypeVar("T")
V = TypeVar("V")


class Executor(Recovery):
    """The part that the blocking and the asyncio store have in common: the calls, and what becomes of them."""

    def context(self, operation: str) -> Flow[CallContext]:
        """The context of the namespace, for an operation that is more than one command."""
        self.check_open(operation)
        return self._verified_context or (yield from self._establish_context(operation))

    def calls(self, command: Command[V, T]) -> list[Call]:
        """The script calls that carry a command out; none while something must be looked at first."""
        self.check_open(command.operation)
        context = self._verified_context
        if context is None or not command.rooms:
            return []
        calls = self.build_calls(command, context)
        if (self._unverified or self.tracked_rooms.awaiting_shards) and any(
            self.needs_check(call.tag) for call in calls
        ):
            return []
        return calls

    def run(self, command: Command[V, T], calls: list[Call], give_up_at: float | None = None) -> Flow[T]:
        """Carry a command out, by these calls if there are any."""
        rooms, give_up_at = command.rooms, give_up_at or self._give_up_at
        if not rooms:
            return command.finish(rooms, [])
        if not calls:
            # What was once agreed on does not change; that it still holds, the batch looks first, and keeps the order.
            calls = self.build_calls(
                command, self._context or (yield from self._establish_context(command, give_up_at))
            )
        if len(calls) == 1:
            replies = yield from self._enqueue(command, calls, give_up_at)
            return command.finish(rooms, self.decode(command, rooms, replies[0]))
        values: list[Any] = [None] * len(rooms)
        done = 0
        for wave in _waves(calls):
            replies = yield from self._enqueue(command, wave, give_up_at, done)
            give_up_at = self._give_up_at  # of the next thousands
            for call, reply in zip(wave, replies, strict=True):
                done += len(call.rooms)
                some = self.decode(command, call.rooms, reply)
                for position, value in zip(call.positions, some, strict=True):
                    values[position] = value
        return command.finish(rooms, values)

    def decode(self, command: Command[V, T], rooms: list[int], reply: list[Any]) -> list[V]:
        """Return the value of each room in a reply, or raise what the reply stands for."""
        try:
            return command.decode(command.operation, rooms, reply)
        except WorldSizeMismatchError as error:
            ours = self._identity.world_size  # a reply has only the room's
            raise WorldSizeMismatchError(error.room, error.operation, error.theirs, ours) from None

    def send_batch(self, batch: Batch, first_error: Exception | None = None) -> Flow[None]:
        """Carry a batch's call to its reply, and tell its pending_calls; ``met`` as in Attempts.carry."""
        now = time.monotonic()
        if first_error is None and batch.give_up_at <= now:
            what = f"no answer within {self.deadline:g} s (not sent: it stood in line all the while)"
            return batch.fail(CallFailed(StoreUnavailableError, what, until=now))
        call = batch.call
        attempts = Attempts(self, call.spec.repeatable, batch.give_up_at)
        try:
            is_settings = call.spec is SETTINGS
            reply = yield from (
                self._check_settings(call, attempts, first_error)
                if is_settings
                else self._send_call(call, attempts, first_error)
            )
        except (CallFailed, KVPollError) as failure:
            return batch.fail(failure)
        return batch.distribute(reply)

    def _check_settings(self, call: Call, attempts: Attempts, first_error: Exception | None) -> Flow[list[Any]]:
        """The context that the settings call of a batch leads to."""
        return [
            self.adopt_settings(
                (yield from attempts.send_script(call, auxiliary=True, first_error=first_error)), attempts
            )
        ]

    def _send_call(self, call: Call, attempts: Attempts, first_error: Exception | None) -> Flow[list[Any]]:
        """The words of the rooms in the reply to a call, from a shard that has all that this store holds."""
        while True:
            if first_error is None:
                yield from self.prepare(call.tag, attempts)
            epochs = self.observer_epochs()
            reply = yield from attempts.send_script(call, first_error=first_error)
            if not self.detects_data_loss(call, reply):
                return self.process_reply(call, epochs, reply)
            first_error = None

    def await_creator(self, command: Command[V, T], value: T, began: float) -> Flow[T]:
        """``value``; but when the room of a guest is lost, and its opener has yet to bring it back, what comes then.

        All of it, from the time when the call ``began``, has one deadline.
        """
        give_up_at = began + self.deadline
        while (
            _is_missing(value)
            and self.tracked_rooms.awaits_creator(command.rooms[0])
            and time.monotonic() + CREATOR_POLL_INTERVAL < give_up_at
        ):
            yield Sleep(CREATOR_POLL_INTERVAL)
            if time.monotonic() >= give_up_at:
                break  # the last answer is one, and to have stood in line is none
            value = yield from self.run(command, [], give_up_at)
        return value

    def recover_call(
        self, command: Command[V, T], call: Call, sent_at: float, first_error: Exception | None
    ) -> Flow[list[Any]]:
        """The reply to a command's only call, which was sent once, at ``sent_at``, and met an error, or lost data."""
        pending = PendingCall(call, sent_at + self.deadline)
        yield from self.send_batch(Batch([pending]), first_error)
        return self.replies_of(command, [pending])[0]

    def adopt_handle(self, handle: Handle[Any]) -> tuple[str, int, int, str | None]:
        """What a handle is of, if that is this store's table."""
        self.check_open("attach")
        if handle.namespace != self.namespace:
            what = f"this handle is of namespace {handle.namespace!r}, and this store of {self.namespace!r}"
            raise InvalidInputError(f"attach: {what}")
        return handle.namespace, handle.id, handle.generation, handle.request

    def next_page(self, scan: Scan) -> Flow[list[int] | None]:
        """The next rooms of a walk; None after the last."""
        context = yield from self.context("rooms")
        request = scan.request(context, self.slot_map_version)
        if request is None:
            return None
        reply = yield from self.send_command("rooms", *request)
        return scan.page(reply, self.slot_map_version)

    def read_feed(self, operation: str, reader: FeedReader) -> Flow[bool]:
        """The next effect of a walk over the feed; False after the last."""
        if reader.pause:
            yield Sleep(reader.pause)
        context = yield from self.context(operation)
        if context.feed_length == "0":
            raise FeedOffError(operation, self.namespace)
        request = reader.request(context)
        if request is None:
            return False
        reader.take((yield from self.send_command(operation, *request)))
        return True

    def settings(self) -> Flow[Settings | None]:
        """The settings of the namespace, without writing them; None when nobody uses it."""
        self.check_open("settings")
        call = self._expected.call()
        reply = yield from self.send_command("settings", call.tag, ["HMGET", call.first_keys[0], *NAMES])
        return self._expected.read(reply) if any(reply) else None

    def send_calls(self, operation: str, calls: list[Call]) -> Flow[list[list[Any]]]:
        """Send calls that are no command's, one a shard at most, by their queues. Their replies."""
        return (yield from self._enqueue(operation, calls, self._give_up_at))

    def _enqueue(
        self, command: Command[Any, Any] | str, calls: list[Call], give_up_at: float, done: int = 0
    ) -> Flow[list[Any]]:
        """Send calls, each by the queue of its shard, and wait until all have arrived. Their replies."""
        pending_calls = [PendingCall(call, give_up_at) for call in calls]
        yield AwaitCalls(pending_calls)
        return self.replies_of(command, pending_calls, done)

    def replies_of(
        self, command: Command[Any, Any] | str, pending_calls: list[PendingCall], done: int = 0
    ) -> list[list[Any]]:
        """The pending_calls' replies, or what failed, as the caller gets to see it."""
        for pending in pending_calls:
            if pending.reply is not None:
                done += len(pending.call.rooms)
        for pending in pending_calls:
            if isinstance(pending.failure, CallFailed):
                raise pending.failure.named(self._name(command, done)) from pending.failure.__cause__
            if pending.failure is not None:
                raise copy.copy(pending.failure)  # the others get it too, each with a traceback of its own
        return [pending.reply for pending in pending_calls if pending.reply is not None]

    def send_command(self, operation: str, tag: str, words: list[str]) -> Flow[Any]:
        """Send a plain command that only reads, past all queues."""
        try:
            return (yield from Attempts(self, True, self._give_up_at).send_command(tag, words))
        except CallFailed as failure:
            raise failure.named(self._name(operation)) from failure.__cause__

    @property
    def _give_up_at(self) -> float:
        """When to give up what begins now."""
        return time.monotonic() + self.deadline

    def _name(self, command: Command[Any, Any] | str, done: int = 0) -> str:
        """What errors call an operation: with its rooms, all of a few, the first of many."""
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
        """Check the settings before a call, within its deadline; callers that come at once share one look."""
        give_up_at = give_up_at or self._give_up_at
        ((context,),) = yield from self._enqueue(command, [self._expected.call()], give_up_at)
        if not self._checked_eviction:
            self._checked_eviction = True
            try:
                memory = yield from Attempts(self, True, give_up_at).send_command(self.namespace, ["INFO", "memory"])
            except CallFailed:
                pass  # fakeredis has no INFO, and a careful operator may deny it
            else:
                eviction.warn(memory, self.namespace)
        return cast(CallContext, context)


def _is_missing(value: Any) -> bool:
    """Whether what a handle got is what it gets when its room is not there."""
    if isinstance(value, Update):
        return value.outcome is Outcome.STALE
    return not value and not isinstance(value, KVPoll)  # Failed is 0


def _waves(calls: list[Call]) -> Iterator[list[Call]]:
    """Calls that go at once: one a shard, then the next of each."""
    by_tag: dict[str, list[Call]] = {}
    for call in calls:
        by_tag.setdefault(call.tag, []).append(call)
    for wave in zip_longest(*by_tag.values()):
        yield [call for call in wave if call is not None]
