"""The queues of an event loop, what a task awaits (its call, or a task that outlasts it), and tasks that last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from redis_kvpoll.engine import batching
from redis_kvpoll.engine.effects import PendingCall

T = TypeVar("T")

RESTART_DELAY = 0.05
"""Seconds until a task that was cancelled starts anew, so that a program may cancel all and stop the loop itself."""


async def result_of(task: asyncio.Task[T]) -> T:
    """Return a task's result. It goes on if the caller is cancelled, and an error that it ends with then is not logged.

    ``shield`` leaves that error to asyncio, which logs it as one that nobody has seen.
    """
    task.add_done_callback(retrieve)
    await asyncio.wait([task])
    return task.result()


def retrieve(task: asyncio.Task[Any]) -> None:
    """Look at the error of a task that has ended; else asyncio logs that nobody has."""
    if not task.cancelled():
        task.exception()


class LastingTask(asyncio.Task[None]):
    """A task of this library. If a program cancels all tasks and goes on, ``start`` is called to make another one."""

    def __init__(self, work: Coroutine[Any, Any, None], name: str, start: Callable[[], object]) -> None:
        super().__init__(work, name=name)
        self._start = start
        self._loop_goes_on = True
        self.add_done_callback(LastingTask._ended)

    def cancel(self, msg: Any | None = None) -> bool:
        # An event loop that ends cancels all tasks, too, but has stopped by then. It must not be left with a new one.
        self._loop_goes_on = self.get_loop().is_running()
        return super().cancel(msg)

    def _ended(self) -> None:
        if self.cancelled() and self._loop_goes_on:
            self.get_loop().call_later(RESTART_DELAY, self._start)


class StartedTask(asyncio.Task[T]):
    """A task that starts, also if it is cancelled at once, so that its ``finally`` gives back what the task was given.

    A program may cancel all tasks turn after turn.
    """

    def cancel(self, msg: Any | None = None) -> bool:
        self.get_loop().call_soon(super().cancel, msg)  # comes after the first step, which is due by now
        return not self.done()


class AsyncShardQueue(batching.ShardQueue):
    """A queue of one event loop. Its sender is a task that sends batches until the queue is empty."""

    __slots__ = ("expiry", "loop")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.expiry: asyncio.TimerHandle | None = None
        """The timer for the next deadline, from when a call is queued until none waits. A single call needs none."""

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
