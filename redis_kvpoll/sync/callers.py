"""What a thread waits on for its calls."""

from __future__ import annotations

from queue import SimpleQueue


class CallingThread:
    """A thread that waits for its calls."""

    __slots__ = ("busy", "wakeups")

    def __init__(self) -> None:
        self.wakeups: SimpleQueue[None] = SimpleQueue()
        """One for each of its calls that is done or elected."""
        self.busy = False
        """Whether it sends for one shard while it has calls in other queues: it cannot be elected there."""
