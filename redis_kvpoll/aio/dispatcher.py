"""Runs flows for asyncio. Calls made in the same turn of the event loop share a batch.

A task of the dispatcher's own, the sender, sends the batches of a shard. It starts in the turn after the first call, so
that all calls of that turn share the batch.

Invariant: the cancellation of a caller affects no other: its call leaves the queue, or stays in its batch.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar, cast

from redis.exceptions import RedisError

from redis_kvpoll.aio.transport import AsyncTransport
from redis_kvpoll.engine import batching
from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import AwaitCalls, Effect, Flow, PendingCall, Send
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.protocol.feed import Change, FeedGap
from redis_kvpoll.protocol.feed_reader import Tail
from redis_kvpoll.protocol.scan import Scan
from redis_kvpoll.protocol.script_call import Call, Command

T = TypeVar("T")
V = TypeVar("V")


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


class AsyncShardQueue(batching.ShardQueue):
    """A queue of one event loop. Its sender is a task that sends batches until the queue is empty."""

    __slots__ = ("loop",)

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()

    @property
    def has_sender(self) -> bool:
        return self.sender is not None and not self.sender.done()


class CallFuture(asyncio.Future[Any]):
    """What a caller awaits for its call. A cancellation takes the call out of its queue or batch."""

    queue: AsyncShardQueue
    pending: PendingCall
    on_cancel: Callable[[AsyncShardQueue, PendingCall], None]
    __slots__ = ("on_cancel", "pending", "queue")  # _future_for sets them: an __init__ would cost more than the rest

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        self.on_cancel(self.queue, self.pending)
        return True


class AsyncDispatcher:
    """The driver and the queues of one asyncio store."""

    def __init__(self, executor: Executor, transport: AsyncTransport) -> None:
        self.executor = executor
        self.transport = transport
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: defaultdict[str, AsyncShardQueue] = defaultdict(AsyncShardQueue)

    def execute(self, command: Command[V, T]) -> Awaitable[T]:
        """Execute a command. One that shares a batch costs a future, and no coroutine of its own."""
        calls = self.executor.calls(command)
        if len(calls) != 1:
            return self.run(self.executor.run(command, calls))
        call, now = calls[0], time.monotonic()
        pending = PendingCall(call, now + self.executor.deadline, command)
        queue = self._queue(call.tag)
        if queue.is_free and not queue.has_sender:
            queue.enqueue(pending)
            return self._send_if_alone(queue, pending, command, now)
        queue.enqueue(pending)
        return self._future_for(queue, pending)

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow and return its result."""
        return await drive(flow, self._perform)

    async def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, AwaitCalls):
            return await self._await_calls(effect.pending_calls)  # a cancellation here closes no connection
        try:
            return await self.transport.perform(effect)
        except (NotSent, RedisError, OSError):
            raise
        except BaseException:
            self.executor.connection_lost()  # cancelled: the connection is closed
            raise

    async def pages(self) -> AsyncIterator[list[int]]:
        """Yield the rooms of the namespace, some at a time."""
        scan = Scan(self.transport.clustered)
        while (page := await self.run(self.executor.next_page(scan))) is not None:
            yield page

    async def news(self, tail: Tail) -> AsyncIterator[Change | FeedGap]:
        """Yield what is new in the feed, without end."""
        while True:
            while await self.run(self.executor.read_feed("tail", tail)):
                pass
            for change in tail.news():
                yield change

    async def _send_if_alone(
        self, queue: AsyncShardQueue, pending: PendingCall, command: Command[V, T], now: float
    ) -> T:
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
        reply = await self._send_alone(queue, command, pending.call, now)
        return command.finish(command.rooms, self.executor.decode(command, command.rooms, reply))

    async def _send_alone(self, queue: AsyncShardQueue, command: Command[V, T], call: Call, now: float) -> list[Any]:
        """Return the reply to a call that has its queue to itself."""
        executor = self.executor
        epochs = executor.observer_epochs()
        try:
            try:
                reply = await self.transport.perform(Send(call.tag, call.words(), None, not call.spec.repeatable))
            except (NotSent, RedisError, OSError) as error:
                return await self.run(executor.recover_call(command, call, now, error))
            except BaseException:
                executor.connection_lost()  # cancelled: the connection is closed
                raise
            if executor.detects_data_loss(call, reply):
                return await self.run(executor.recover_call(command, call, now, None))
            return executor.process_reply(call, epochs, reply)
        finally:
            queue.batch = None
            self._start_sender(queue)

    async def _await_calls(self, pending_calls: list[PendingCall]) -> None:
        """Enqueue calls, each in another queue; return when all are done."""
        waiters = [self._future_for(self._queue(pending.call.tag), pending) for pending in pending_calls]
        for waiter in waiters:
            was_free = waiter.queue.is_free
            waiter.queue.enqueue(waiter.pending)
            if was_free:
                self._start_sender(waiter.queue)
        try:
            for waiter in waiters:
                await waiter
        except BaseException:
            for waiter in waiters:
                waiter.cancel()
            raise

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

    def _start_sender(self, queue: AsyncShardQueue) -> None:
        """Start a sender, if calls wait and none runs. It starts in the next turn, whatever tasks the loop makes."""
        if queue.waiting and not queue.batch and not queue.has_sender and not queue.loop.is_closed():
            queue.sender = asyncio.Task(self._send_until_empty(queue), loop=queue.loop)
            # A sender that is cancelled before it starts is replaced.
            queue.sender.add_done_callback(lambda sender: self._start_sender(queue) if sender.cancelled() else None)

    async def _send_until_empty(self, queue: AsyncShardQueue) -> None:
        while queue.waiting and not queue.batch:
            batch = queue.take_batch()
            try:
                await self.run(self.executor.send_batch(batch))
            except asyncio.CancelledError:
                # No caller waits for this batch any more, or all tasks are being cancelled. Remaining callers must not
                # wait for ever.
                while queue.sender.uncancel():
                    pass
                done_calls = queue.requeue_or_fail(batch)
            except Exception as error:  # a bug
                batch.fail(error)
                done_calls = queue.complete(batch)
            else:
                done_calls = queue.complete(batch)
            # In the next turn: the next batch is sent first, so that the server works while the callers go on.
            queue.loop.call_soon(self._settle_all, done_calls)

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
            (reply,) = self.executor.replies_of(command, [pending])
            value = command.finish(command.rooms, self.executor.decode(command, command.rooms, reply))
        except Exception as error:
            waiter.set_exception(error)
        else:
            waiter.set_result(value)

    def _cancel(self, queue: AsyncShardQueue, pending: PendingCall) -> None:
        """Take out the call of a cancelled caller. A batch without callers ends."""
        queue.cancel(pending)
        pending.waiter = None
        batch = queue.batch
        if isinstance(batch, batching.Batch) and pending in batch.pending_calls and batch.is_empty:
            queue.sender.cancel()
        self._start_sender(queue)
