"""The queues of an event loop, and what a task awaits for its call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis_kvpoll.engine import batching
from redis_kvpoll.engine.effects import PendingCall


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
