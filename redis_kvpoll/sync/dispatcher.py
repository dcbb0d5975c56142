"""Drives flows for blocking code. Threads share batches: whoever leads a queue sends for all that wait in it.

A thread that comes to a free queue flies at once, and pays one short lock for it. One that comes while another flies
waits in line; at that batch's end one of those in line flies next and takes along who waits with it.

An interrupt (Ctrl-C, a time limit set by a signal) may come between any two effects of a thread, and nobody else must
pay for it. So what a thread has begun in a queue is ended in a ``finally`` that may begin again, and no
caller waits much longer than its deadline for another thread, whatever has become of that.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import get_ident
from typing import Any, TypeVar

from redis.exceptions import RedisError

from redis_kvpoll._fork import forkable
from redis_kvpoll.engine.batching import Batch, ShardQueue
from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import AwaitCalls, Effect, Flow, PendingCall, Send
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.retry import CallFailed
from redis_kvpoll.errors import OutcomeUnknownError, StoreUnavailableError
from redis_kvpoll.protocol.feed import Change, FeedGap, Tail
from redis_kvpoll.protocol.scan import Scan
from redis_kvpoll.protocol.script_call import Call, Command
from redis_kvpoll.sync.fan_out import ShardFanOut
from redis_kvpoll.sync.transport import Transport

T = TypeVar("T")
V = TypeVar("V")

SENDER_TIMEOUT = 1.0
"""Seconds after its deadline that a caller still waits for who flies it: usually that one knows better."""


def drive(flow: Flow[T], take: Callable[[Effect], Any]) -> T:
    """``take`` each effect that a flow asks for, until it returns. What goes wrong on the way, the flow judges."""
    try:
        effect = next(flow)
        while True:
            try:
                result = take(effect)
            except (NotSent, RedisError, OSError) as error:
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as end:
        value: T = end.value
        return value


class Caller:
    """A thread that waits for its pending_calls."""

    __slots__ = ("busy", "wakeups")

    def __init__(self) -> None:
        self.wakeups: SimpleQueue[None] = SimpleQueue()
        """Rung for each pending that arrives, or is to lead."""
        self.busy = False
        """Whether it flies, and has pending_calls in further queues, which it cannot lead meanwhile."""


class Dispatcher:
    """The driver and the queues of one blocking store."""

    def __init__(self, executor: Executor, transport: Transport) -> None:
        self.executor = executor
        self.transport = transport
        self.after_fork()
        forkable.add(self)

    def after_fork(self) -> None:
        """Begin with free queues. In the child of a fork, who flew and who waited were threads of the parent."""
        # Reentrant, for signal handlers and finalizers that use the store.
        self._lock = threading.RLock()
        self._queues: defaultdict[str, ShardQueue] = defaultdict(ShardQueue)
        self._threads_inside: set[int] = set()

    def execute(self, command: Command[V, T]) -> T:
        """Carry a command out. A call alone in its queue is sent at once; only trouble takes a flow."""
        executor = self.executor
        calls = executor.calls(command)
        if len(calls) != 1:
            return self.run(executor.run(command, calls))
        call, now, own = calls[0], time.monotonic(), None
        try:
            with self._lock:
                queue = self._queues[call.tag]
                if queue.is_free:
                    queue.sender = get_ident()
                    own = queue.batch = call  # no interrupt comes between the two: what begins here is ended below
            if own is None:
                pending = PendingCall(call, now + executor.deadline)
                self._carry(AwaitCalls([pending]))
                (reply,) = executor.replies_of(command, [pending])
            else:
                reply = self._send_alone(command, call, now)
        finally:
            if own is not None:
                # Without the lock: who boards looks at the batch once more thereafter.
                if queue.batch is own:
                    queue.batch = None
                if queue.waiting:
                    self._wake_next_sender(queue)
        return command.finish(command.rooms, executor.decode(command, command.rooms, reply))

    def _send_alone(self, command: Command[V, T], call: Call, now: float) -> list[Any]:
        """The reply to a call that has its queue for itself."""
        executor = self.executor
        epochs = executor.observer_epochs()
        try:
            reply = self.transport.take(Send(call.tag, call.words(), None, not call.spec.repeatable))
        except (NotSent, RedisError, OSError) as error:
            return self.run(executor.recover_call(command, call, now, error))
        except BaseException:
            executor.connection_lost()  # connection_lost: the connection is gone, as if it had been lost
            raise
        if executor.detects_data_loss(call, reply):
            return self.run(executor.recover_call(command, call, now, None))
        return executor.process_reply(call, epochs, reply)

    def run(self, flow: Flow[T]) -> T:
        """Do each effect that a flow asks for, until it returns."""
        return drive(flow, self._take)

    def _take(self, effect: Effect) -> Any:
        try:
            return self._carry(effect) if isinstance(effect, AwaitCalls) else self.transport.take(effect)
        except (NotSent, RedisError, OSError):
            raise
        except BaseException:
            self.executor.connection_lost()  # the connection is gone, as if it had been lost
            raise

    def pages(self) -> Iterator[list[int]]:
        """The rooms of the namespace, some at a time."""
        scan = Scan(self.transport.clustered)
        while (page := self.run(self.executor.next_page(scan))) is not None:
            yield page

    def news(self, tail: Tail) -> Iterator[Change | FeedGap]:
        """What is new in the feed, for ever."""
        while True:
            while self.run(self.executor.read_feed("tail", tail)):
                pass
            yield from tail.news()

    def _carry(self, effect: AwaitCalls) -> list[PendingCall]:
        """Return when all pending_calls have arrived. Each is of another queue."""
        pending_calls = effect.pending_calls
        me = get_ident()
        if me in self._threads_inside or self._is_sending(me, pending_calls):
            # A signal handler or a finalizer, in the midst of a call of this thread, which must not wait for itself.
            for pending in pending_calls:
                self.run(self.executor.send_batch(Batch([pending])))
            return pending_calls
        caller = Caller()
        try:
            self._threads_inside.add(me)
            with self._lock:
                for pending in pending_calls:
                    pending.waiter = caller
                    queue = self._queue(pending)
                    queue.enqueue(pending)
                    if queue.next_sender is None:
                        _wake(queue.elect_sender())
            self._wait_for_replies(pending_calls, caller)
        except BaseException:
            self._leave(pending_calls)
            raise
        finally:
            self._threads_inside.discard(me)
        return pending_calls

    def _wait_for_replies(self, pending_calls: list[PendingCall], caller: Caller) -> None:
        """Wait, and see to the batches that this thread is done_calls to lead, until all pending_calls have arrived."""
        until = pending_calls[0].give_up_at + SENDER_TIMEOUT  # those of one call have the same
        while True:
            try:
                caller.wakeups.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                self._give_up_on_sender(pending_calls)
                return
            for pending in pending_calls:
                if not pending.done:
                    break
            else:
                return
            self._send_batches(pending_calls, caller)

    def _is_sending(self, thread: int, pending_calls: list[PendingCall]) -> bool:
        """Whether a thread is just flying one of these pending_calls' queues."""
        for pending in pending_calls:
            queue = self._queue(pending)
            if queue.batch is not None and queue.sender == thread:
                return True
        return False

    def _queue(self, pending: PendingCall) -> ShardQueue:
        return self._queues[pending.call.tag]

    def _send_batches(self, pending_calls: list[PendingCall], caller: Caller) -> None:
        """The next batches of the queues that these pending_calls lead, all at once."""
        batches: list[tuple[ShardQueue, Batch]] = []
        with self._lock:
            for pending in pending_calls:
                queue = self._queue(pending)
                if queue.next_sender is pending:
                    caller.busy = len(pending_calls) > 1
                    queue.sender = get_ident()
                    batches.append((queue, queue.take_batch()))
        if len(batches) == 1:
            ((queue, batch),) = batches
            self.run(self.executor.send_batch(batch))
            self._end(queue, batch)
        elif batches:
            flows = [self.executor.send_batch(batch) for _, batch in batches]
            ShardFanOut(self.transport, flows, self.executor.deadline, lambda number: self._end(*batches[number])).run()
        if caller.busy:
            caller.busy = False
            for pending in pending_calls:
                if not pending.done:
                    self._wake_next_sender(self._queue(pending))

    def _end(self, queue: ShardQueue, batch: Batch) -> None:
        with self._lock:
            done_calls = queue.complete(batch)
        for pending in done_calls:
            pending.waiter.wakeups.put(None)
        self._wake_next_sender(queue)

    def _wake_next_sender(self, queue: ShardQueue) -> None:
        """Tell who leads to fly, if nobody does."""
        try:
            with self._lock:
                next_sender = queue.elect_sender()
            _wake(next_sender)
        except BaseException:
            self._wake_next_sender(queue)
            raise

    def _leave(self, pending_calls: list[PendingCall]) -> None:
        """This thread was connection_lost: others must not wait for it."""
        self.executor.connection_lost()
        done_calls: list[PendingCall] = []
        with self._lock:
            for pending in pending_calls:
                queue = self._queue(pending)
                queue.cancel(pending)
                if queue.batch and queue.sender == get_ident():
                    done_calls += queue.requeue_or_fail(queue.batch)
                _wake(queue.elect_sender())
        for pending in done_calls:
            pending.waiter.wakeups.put(None)

    def _give_up_on_sender(self, pending_calls: list[PendingCall]) -> None:
        """Nothing has been heard for too long: who flies hangs, or was connection_lost where no care could be taken."""
        done_calls: list[PendingCall] = []
        with self._lock:
            for pending in pending_calls:
                queue = self._queue(pending)
                if pending.done:
                    continue
                stands = pending in queue.waiting
                kind = StoreUnavailableError if stands or pending.call.spec.repeatable else OutcomeUnknownError
                pending.failure = CallFailed(
                    kind, f"no answer within {self.executor.deadline:g} s: another thread hangs"
                )
                batch = queue.batch
                if batch and (
                    batch is pending.queued_behind or (isinstance(batch, Batch) and pending in batch.pending_calls)
                ):
                    done_calls += queue.requeue_or_fail(batch)
                if not queue.batch:
                    queue.next_sender = None  # has not come in all this time
                queue.cancel(pending)
                _wake(queue.elect_sender())
        for pending in done_calls:
            pending.waiter.wakeups.put(None)


def _wake(next_sender: PendingCall | None) -> None:
    if next_sender is not None:
        next_sender.waiter.wakeups.put(None)
