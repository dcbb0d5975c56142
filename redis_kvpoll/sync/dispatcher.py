"""Runs flows for blocking code, by flat combining: the sending thread also sends the calls of waiting threads.

A thread that finds its shard's queue free sends at once, which costs one short lock. A thread that finds a batch in
flight enqueues its call. At the end of the batch, one waiting caller is elected and sends the next batch for all.

Invariant: an interrupt (Ctrl-C, a time limit) may come between any two steps of a thread, and leaves no queue in use:
what a thread begins in a queue ends in a ``finally`` that may run again. Of the calls of others that it was sending,
those that may be repeated are sent again; the others raise OutcomeUnknownError. A thread that is held up, by a long
signal handler for example, holds up the calls that it sends, but no caller waits long beyond its deadline. A call that
a handler makes waits for no thread that may wait for the handler's own.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from queue import Empty
from threading import get_ident
from typing import Any, TypeVar

from redis.exceptions import RedisError

from redis_kvpoll._fork import forkable
from redis_kvpoll.engine.batching import Batch, ShardQueue
from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import AwaitCalls, Effect, Flow, PendingCall
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.locks import owns
from redis_kvpoll.engine.reads import next_page
from redis_kvpoll.engine.ready_calls import TAKE_FULL_PATH, ReadyCalls
from redis_kvpoll.protocol.scan import Scan
from redis_kvpoll.protocol.script_call import Call, Command
from redis_kvpoll.sync.callers import CallingThread
from redis_kvpoll.sync.connecting import is_opening
from redis_kvpoll.sync.fan_out import ShardFanOut
from redis_kvpoll.sync.transport import Transport

T = TypeVar("T")
V = TypeVar("V")

SENDER_TIMEOUT = 1.0
"""Seconds that a caller waits beyond its deadline for the sender of its call, whose error has more detail.
It is another thread, which a busy process may keep waiting."""


def drive(flow: Flow[T], perform: Callable[[Effect], Any]) -> T:
    """Perform each effect of a flow, errors included, until it returns."""
    try:
        effect = next(flow)
        while True:
            try:
                result = perform(effect)
            except (NotSent, RedisError, OSError) as error:
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as end:
        value: T = end.value
        return value


class Dispatcher:
    """The driver and the queues of one blocking store."""

    def __init__(self, executor: Executor, transport: Transport) -> None:
        self.executor = executor
        self.transport = transport
        self.ready = ReadyCalls(executor)
        executor.recovery.is_clustered = transport.clustered
        self.after_fork()
        forkable.add(self)

    def after_fork(self) -> None:
        """Begin with free queues: in the child of a fork, the senders and callers are threads of the parent."""
        # Reentrant, for signal handlers and finalizers that use the store.
        self._lock = threading.RLock()
        self._queues: defaultdict[str, ShardQueue] = defaultdict(ShardQueue)
        self._threads_inside: set[int] = set()

    def execute(self, command: Command[V, T]) -> T:
        """Execute a command. A call that is alone in its queue is sent at once; only a failure takes a flow."""
        executor = self.executor
        calls = executor.calls(command)
        if len(calls) != 1:
            return self.run(executor.run(command, calls))
        call, now = calls[0], time.monotonic()
        reply = self.send_alone(call.tag, call, self._send_alone, command, call, now)
        if reply is TAKE_FULL_PATH:  # the queue is in use
            pending = PendingCall(call, now + executor.deadline)
            self._await_calls(AwaitCalls([pending]))
            reply = executor.reply_of(command, pending)
        return command.finish(command.rooms, executor.decode(command, command.rooms, reply))

    def send_alone(self, tag: str, batch: Call | bytes, send: Callable[..., Any], *args: Any) -> Any:
        """Return what ``send(*args)`` returns, which sends ``batch``, if the queue is free; else TAKE_FULL_PATH."""
        own = None
        try:
            with self._lock:
                queue = self._queues[tag]
                if queue.batch is None and not queue.waiting:
                    queue.sender = get_ident()
                    own = queue.batch = batch  # no interrupt comes between: see engine/batching.py
            return TAKE_FULL_PATH if own is None else send(*args)
        finally:
            if own is not None:
                # Without the lock: a caller that enqueues checks the batch once more afterwards.
                if queue.batch is own:
                    queue.batch = None
                if queue.waiting:
                    self._wake_next_sender(queue)

    def _send_alone(self, command: Command[V, T], call: Call, now: float) -> list[Any]:
        """Return the reply to a call that has its queue to itself."""
        executor, first_error = self.executor, None
        done: list[Any] = []
        tokens, send = executor.session.sync_tokens(), executor.prepare(call)
        try:
            reply = self.transport.perform(send)
        except (NotSent, RedisError, OSError) as error:
            first_error = error
        else:
            done, is_whole = executor.complete(call, send.server, tokens, reply)
            if is_whole:
                return done
        return self.run(executor.recover_call(command, call, now, first_error, done))

    def run(self, flow: Flow[T]) -> T:
        """Run a flow and return its result."""
        return drive(flow, self._perform)

    def _perform(self, effect: Effect) -> Any:
        return self._await_calls(effect) if isinstance(effect, AwaitCalls) else self.transport.perform(effect)

    def pages(self, operation: str) -> Iterator[list[int]]:
        """Yield the rooms of the namespace, some at a time."""
        scan = Scan(self.transport.clustered)
        while (page := self.run(next_page(self.executor, scan, operation))) is not None:
            yield page

    def _await_calls(self, effect: AwaitCalls) -> list[PendingCall]:
        """Enqueue calls, each in another queue; return when all are done."""
        pending_calls = effect.pending_calls
        me = get_ident()
        if self._must_not_wait(me, pending_calls):
            for pending in pending_calls:
                self.run(self.executor.send_batch(Batch([pending])))
            return pending_calls
        caller = CallingThread()
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
            self._cancel(pending_calls)
            raise
        finally:
            self._threads_inside.discard(me)
        return pending_calls

    def _wait_for_replies(self, pending_calls: list[PendingCall], caller: CallingThread) -> None:
        """Wait until all calls are done; send the batches that this thread is elected for."""
        until = deadline = pending_calls[0].give_up_at  # one command has one deadline
        while True:
            try:
                caller.wakeups.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                if until > deadline:
                    return self._give_up_on_sender(pending_calls)
                self._leave_later_batches(pending_calls)
                until = deadline + SENDER_TIMEOUT
            for pending in pending_calls:
                if not pending.done:
                    break
            else:
                return None
            self._send_batches(pending_calls, caller)

    def _leave_later_batches(self, pending_calls: list[PendingCall]) -> None:
        """Fail the calls of this thread, whose deadline has passed, in batches that have more time."""
        with self._lock:
            for pending in pending_calls:
                batch = self._queue(pending).batch
                if (
                    isinstance(batch, Batch)
                    and pending in batch.pending_calls
                    and batch.give_up_at > pending.give_up_at
                ):
                    self._queue(pending).leave(pending, f"no answer within {self.executor.deadline:g} s")

    def _must_not_wait(self, me: int, pending_calls: list[PendingCall]) -> bool:
        """Whether a signal handler or finalizer makes a call while others may wait for its thread: in a call of the
        thread's own, or while it connects for another thread, or has the lock or that of a copy of the table."""
        if me in self._threads_inside or is_opening(me) or owns(self._lock):
            return True
        if any(observer.is_interrupted for observer in tuple(self.executor.session.observers)):
            return True
        queues = map(self._queue, pending_calls)
        return any(queue.batch is not None and queue.sender == me for queue in queues)

    def _queue(self, pending: PendingCall) -> ShardQueue:
        return self._queues[pending.call.tag]

    def _send_batches(self, pending_calls: list[PendingCall], caller: CallingThread) -> None:
        """Send the next batch of each queue that this thread is elected for, all at once."""
        batches: list[tuple[ShardQueue, Batch]] = []
        with self._lock:
            for pending in pending_calls:
                queue = self._queue(pending)
                if queue.next_sender is pending:
                    caller.busy = len(pending_calls) > 1
                    queue.sender = get_ident()
                    batches.append((queue, queue.take_batch(pending.give_up_at)))
        if len(batches) == 1:
            ((queue, batch),) = batches
            self.run(self.executor.send_batch(batch))
            self._end_batch(queue, batch)
        elif batches:
            flows = [self.executor.send_batch(batch) for _, batch in batches]
            ShardFanOut(
                self.transport, flows, self.executor.deadline, lambda number: self._end_batch(*batches[number])
            ).run()
        if caller.busy:
            caller.busy = False
            for pending in pending_calls:
                if not pending.done:
                    self._wake_next_sender(self._queue(pending))

    def _end_batch(self, queue: ShardQueue, batch: Batch) -> None:
        """End a batch: wake the next sender, and its callers."""
        try:
            with self._lock:
                done_calls, next_sender = queue.end_batch(batch), queue.elect_sender()
            _wake(next_sender)  # first, so that the server works while the callers go on
            _wake(*done_calls)
        except BaseException:
            self._end_batch(queue, batch)  # else callers sleep on replies that came; waking twice is harmless
            raise

    def _wake_next_sender(self, queue: ShardQueue) -> None:
        """Wake the caller that must send the next batch, unless one is in flight."""
        try:
            with self._lock:  # until it is woken: a call that interrupts this must not wait for a sleeping sender
                _wake(queue.elect_sender())
        except BaseException:
            self._wake_next_sender(queue)
            raise

    def _cancel(self, pending_calls: list[PendingCall]) -> None:
        """Cancel the calls of this thread, which was interrupted: no other thread may wait for it."""
        done_calls: list[PendingCall] = []
        with self._lock:
            for pending in pending_calls:
                queue = self._queue(pending)
                queue.cancel(pending)
                if queue.batch and queue.sender == get_ident():
                    done_calls += queue.requeue_or_fail(queue.batch)
                _wake(queue.elect_sender())
        _wake(*done_calls)

    def _give_up_on_sender(self, pending_calls: list[PendingCall]) -> None:
        """Fail calls whose sender hangs, or was interrupted where no ``finally`` could run.

        A sender that is still in time, for calls with later deadlines, keeps its batch.
        """
        latest = time.monotonic() - SENDER_TIMEOUT
        done_calls: list[PendingCall] = []
        with self._lock:
            for pending in pending_calls:
                queue = self._queue(pending)
                if pending.done:
                    continue
                batch = queue.batch
                is_late = not isinstance(batch, Batch) or batch.give_up_at <= latest
                is_in_it = isinstance(batch, Batch) and pending in batch.pending_calls
                if batch and (is_in_it or (batch is pending.queued_behind and is_late)):
                    done_calls += queue.requeue_or_fail(batch)
                if not queue.batch:
                    queue.next_sender = None  # it was woken, but did not send
                queue.leave(pending, f"no answer within {self.executor.deadline:g} s: another thread hangs")
                _wake(queue.elect_sender())
        _wake(*done_calls)


def _wake(*pending_calls: PendingCall | None) -> None:
    """Wake the threads of these calls."""
    for pending in pending_calls:
        if pending is not None:
            pending.waiter.wakeups.put(None)
