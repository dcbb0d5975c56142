"""Runs flows for asyncio. Calls made in the same turn of the event loop share a batch.

A call that is alone in its turn is sent by its caller. Where several calls wait, a task of the shard's own, the sender,
sends their batches. It starts in the next turn, so that all calls of this one share the first batch.

Invariant: the cancellation of a caller affects no other: its call leaves the queue, or stays in its batch.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar, cast

from redis.exceptions import RedisError

from redis_kvpoll.aio.callers import AsyncShardQueue, CallFuture
from redis_kvpoll.aio.transport import AsyncTransport
from redis_kvpoll.engine import batching
from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import AwaitCalls, Effect, Flow, PendingCall, Send
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.reads import next_page
from redis_kvpoll.engine.ready_calls import ReadyCalls
from redis_kvpoll.engine.retry import describe_queued
from redis_kvpoll.protocol.scan import Scan
from redis_kvpoll.protocol.script_call import Command

T = TypeVar("T")
V = TypeVar("V")

SENDER_TIMEOUT = 0.1
"""Seconds that a call waits beyond its deadline for its sender, whose error has more detail.

Whatever delays the sender, a task of the same event loop, delays this timer, too.
"""


async def drive(flow: Flow[T], perform: Callable[[Effect], Awaitable[Any]]) -> T:
    """Perform each effect of a flow, errors included, until it returns."""
    try:
        effect = next(flow)
        while True:
            try:
                result = await perform(effect)
            except (NotSent, RedisError, OSError) as error:
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as end:
        value: T = end.value
        return value


class AsyncDispatcher:
    """The driver and the queues of one asyncio store."""

    def __init__(self, executor: Executor, transport: AsyncTransport) -> None:
        self.executor = executor
        self.transport = transport
        self.ready = ReadyCalls(executor)
        executor.recovery.is_clustered = transport.clustered
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: defaultdict[str, AsyncShardQueue] = defaultdict(AsyncShardQueue)

    def execute(self, command: Command[V, T]) -> Awaitable[T]:
        """Execute a command. One that shares a batch costs a future, and no coroutine of its own."""
        calls = self.executor.calls(command)
        if len(calls) != 1:
            return self.run(self.executor.run(command, calls))
        call = calls[0]
        pending = PendingCall(call, time.monotonic() + self.executor.deadline, command)
        queue = self._queue(call.tag)
        if queue.is_free and not queue.has_sender:
            queue.enqueue(pending)
            return self._send_if_alone(queue, pending, command)
        queue.enqueue(pending)
        if queue.expiry is None:
            self._expire_later(queue, pending.give_up_at)
        return self._future_for(queue, pending)

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow and return its result."""
        return await drive(flow, self._perform)

    async def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, AwaitCalls):
            return await self._await_calls(effect.pending_calls)
        return await self.transport.perform(effect)

    async def pages(self, operation: str) -> AsyncIterator[list[int]]:
        """Yield the rooms of the namespace, some at a time."""
        scan = Scan(self.transport.clustered)
        while (page := await self.run(next_page(self.executor, scan, operation))) is not None:
            yield page

    async def _send_if_alone(self, queue: AsyncShardQueue, pending: PendingCall, command: Command[V, T]) -> T:
        """Wait for other calls until the end of this turn. The caller of a single call sends it, without a task."""
        # asyncio's own loops show whether anything else is due in this turn; for other loops this is assumed.
        if getattr(queue.loop, "_ready", True):
            try:
                await asyncio.sleep(0)
            except BaseException:
                self._cancel(queue, pending)
                raise
        if len(queue.waiting) > 1:
            self._start_sender(queue)
            return cast("T", await self._future_for(queue, pending))
        queue.waiting.clear()
        queue.batch = pending.call
        if (reply := await self._send_alone(queue, pending)) is None:
            return cast("T", await self._future_for(queue, pending))
        return command.finish(command.rooms, self.executor.decode(command, command.rooms, reply))

    def free_queue(self, tag: str) -> AsyncShardQueue | None:
        """Return the queue of a shard if a call may be sent at once: nothing else is due in this turn that could join.

        Only asyncio's own loops show what is due. In a cluster, a ready call does not know its node.
        """
        queue = self._queue(tag)
        if queue.batch is not None or queue.waiting or self.transport.clustered or queue.has_sender:
            return None
        return None if getattr(queue.loop, "_ready", True) else queue

    def end_turn(self, queue: AsyncShardQueue) -> None:
        """End the turn of a call that was sent at once."""
        queue.batch = None
        if queue.waiting:
            self._start_sender(queue)

    async def repeat(self, queue: AsyncShardQueue, pending: PendingCall, error: Exception | None) -> Any:
        """Repeat a call that was sent at once, and has failed; return its result."""
        batch = queue.batch = batching.Batch([pending])
        self._start_sender(queue, batch, error)
        return await self._future_for(queue, pending)

    async def _send_alone(self, queue: AsyncShardQueue, pending: PendingCall) -> list[Any] | None:
        """Return the reply to a call that has its queue to itself; None if the sender has to repeat it."""
        executor, call, is_whole, first_error = self.executor, pending.call, False, None
        done: list[Any] = []
        tokens, send = executor.session.sync_tokens(), executor.prepare(call)
        try:
            reply = await self.transport.perform(send)
            done, is_whole = executor.complete(call, send.server, tokens, reply)
        except (NotSent, RedisError, OSError) as error:
            first_error = error
        except BaseException:
            self.observe_rest(queue, send, lambda reply: executor.complete(call, send.server, tokens, reply))
            raise
        if is_whole:
            queue.batch = None
            self._start_sender(queue)
            return done
        batch = queue.batch = batching.Batch([pending], replied=done)
        self._start_sender(queue, batch, first_error)
        return None

    def observe_rest(self, queue: AsyncShardQueue, send: Send, complete: Callable[[Any], object]) -> None:
        """End the turn of a call whose caller was cancelled, after its reply, if one is still to come."""

        def end(rest: asyncio.Task[Any] | None) -> None:
            try:
                if rest and not rest.cancelled() and rest.exception() is None:
                    complete(rest.result())
            finally:
                queue.batch = None
                self._start_sender(queue)

        if send.rest is None:
            end(None)
        else:
            send.rest.add_done_callback(end)

    async def _await_calls(self, pending_calls: list[PendingCall]) -> None:
        """Enqueue calls, each in another queue; return when all are done."""
        waiters = [self._future_for(self._queue(pending.call.tag), pending) for pending in pending_calls]
        for waiter in waiters:
            was_free = waiter.queue.is_free
            waiter.queue.enqueue(waiter.pending)
            if was_free:
                self._start_sender(waiter.queue)
        until = max(pending.give_up_at for pending in pending_calls) - time.monotonic()
        expiry = asyncio.get_running_loop().call_later(until + SENDER_TIMEOUT, self._leave, waiters)
        try:
            for waiter in waiters:
                await waiter
        except BaseException:
            for waiter in waiters:
                waiter.cancel()
            raise
        finally:
            expiry.cancel()

    def _leave(self, waiters: list[CallFuture]) -> None:
        """Fail calls whose deadline has passed. A batch that contains one goes on for its other callers."""
        for waiter in waiters:
            if not waiter.done():
                pending = waiter.pending
                what = f"no answer within {self.executor.deadline:g} s"
                if pending.queued_behind is not None:
                    what = describe_queued(self.executor.session, pending.call.tag)
                waiter.queue.leave(pending, what)
                self._settle(pending)

    def _future_for(self, queue: AsyncShardQueue, pending: PendingCall) -> CallFuture:
        pending.waiter = waiter = CallFuture(loop=queue.loop)
        waiter.queue, waiter.pending, waiter.on_cancel = queue, pending, self._cancel
        return waiter

    def _queue(self, tag: str) -> AsyncShardQueue:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # The senders and callers of a former event loop have ended with it.
            self._loop, self._queues = loop, defaultdict(AsyncShardQueue)
        return self._queues[tag]

    def _start_sender(
        self, queue: AsyncShardQueue, batch: batching.Batch | None = None, first_error: Exception | None = None
    ) -> None:
        """Start a sender, if calls wait and none runs. It starts in the next turn, whatever tasks the loop makes.

        ``batch`` is in flight already: its first attempt has failed.
        """
        if batch or (queue.waiting and not queue.batch and not queue.has_sender and not queue.loop.is_closed()):
            sending = self._send_until_empty(queue, batch, first_error)
            queue.sender = sender = asyncio.Task(sending, loop=queue.loop)
            sender.add_done_callback(lambda _: self._sender_ended(queue, batch) if sender.cancelled() else None)

    def _sender_ended(self, queue: AsyncShardQueue, batch: batching.Batch | None) -> None:
        """Replace a sender that was cancelled before it started."""
        if batch is not None:
            self._settle_all(queue.requeue_or_fail(batch))
        self._start_sender(queue)

    async def _send_until_empty(
        self, queue: AsyncShardQueue, batch: batching.Batch | None, first_error: Exception | None
    ) -> None:
        while batch or (queue.waiting and not queue.batch):
            batch = batch or queue.take_batch()
            try:
                await self.run(self.executor.send_batch(batch, first_error))
            except asyncio.CancelledError:
                # All tasks are being cancelled. Callers that remain must not wait for ever.
                while queue.sender.uncancel():
                    pass
                done_calls = queue.requeue_or_fail(batch)
            except Exception as error:  # a bug
                batch.fail(error)
                done_calls = queue.end_batch(batch)
            else:
                done_calls = queue.end_batch(batch)
            batch = first_error = None
            # In the next turn: the next batch is sent first, so that the server works while the callers go on.
            queue.loop.call_soon(self._settle_all, done_calls)
        if queue.expiry is not None and not queue.waiting:
            queue.expiry.cancel()
            queue.expiry = None

    def _expire_later(self, queue: AsyncShardQueue, give_up_at: float) -> None:
        seconds = give_up_at - time.monotonic() + SENDER_TIMEOUT
        queue.expiry = queue.loop.call_later(seconds, self._expire, queue)

    def _expire(self, queue: AsyncShardQueue) -> None:
        """Fail the calls whose own deadlines have passed, in the queue and in a batch that has more time."""
        queue.expiry, now = None, time.monotonic()
        in_batch = queue.batch.pending_calls if isinstance(queue.batch, batching.Batch) else ()
        waiters = [one.waiter for one in (*in_batch, *queue.waiting) if one.waiter is not None and not one.done]
        self._leave([waiter for waiter in waiters if waiter.pending.give_up_at <= now])
        if later := [waiter.pending.give_up_at for waiter in waiters if not waiter.pending.done]:
            self._expire_later(queue, min(later))

    def _settle_all(self, pending_calls: list[PendingCall]) -> None:
        for pending in pending_calls:
            if pending.waiter is not None and not pending.waiter.done():
                self._settle(pending)

    def _settle(self, pending: PendingCall) -> None:
        """Resolve the future of a call."""
        command, waiter = pending.command, pending.waiter
        pending.waiter = None  # else the two would be a cycle for the garbage collector
        if command is None:
            waiter.set_result(None)
            return
        try:
            reply = self.executor.reply_of(command, pending)
            value = command.finish(command.rooms, self.executor.decode(command, command.rooms, reply))
        except Exception as error:
            waiter.set_exception(error)
        else:
            waiter.set_result(value)

    def _cancel(self, queue: AsyncShardQueue, pending: PendingCall) -> None:
        """Take out the call of a cancelled caller. A batch that contains it goes on."""
        queue.cancel(pending)
        pending.waiter = None
        self._start_sender(queue)
