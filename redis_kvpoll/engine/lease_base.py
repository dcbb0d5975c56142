"""What the blocking and the asyncio lease have in common."""

from __future__ import annotations

import os

from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.lease import LeaseKeeper
from redis_kvpoll.errors import StoreClosedError
from redis_kvpoll.protocol.lease_commands import LeaseConfig


class LeaseBase:
    """A lease, as its holder sees it. What it says takes no call."""

    def __init__(self, executor: Executor, config: LeaseConfig) -> None:
        self._executor = executor
        self._keeper = LeaseKeeper(executor, config)
        self._is_held = False
        self._forked_from: int | None = None

    @property
    def name(self) -> str:
        """The owner: what the rooms that are created under it name."""
        return self._keeper.name

    @property
    def ttl(self) -> float:
        """Seconds after the last heartbeat, when it lapses."""
        return self._keeper.config.ttl

    @property
    def heartbeat(self) -> float:
        """Seconds between heartbeats."""
        return self._keeper.config.heartbeat

    @property
    def incarnation(self) -> int:
        """Which of those that have had this name; it grows with each. 0 before it was taken."""
        return int(self._keeper.incarnation or 0)

    @property
    def lost(self) -> bool:
        """Whether it is known to be lost: not renewed in time, or its name was taken by another."""
        return self._keeper.lost

    def check(self) -> None:
        """Raise LeaseLostError if the lease is known to be lost."""
        self._keeper.check("check")
        if self._forked_from is not None:
            process = self._forked_from
            raise StoreClosedError(f"check: this lease is held by process {process}, of which this one is a fork")
        if not self._is_held:
            raise StoreClosedError("check: this lease is not held: enter it by a with statement")

    def _forked(self) -> None:
        """In the child: the lease is the parent's, and so is what keeps it alive. The store goes on without one."""
        if self._is_held:
            self._forked_from, self._is_held = os.getppid(), False
        self._executor.detach_lease(self._keeper)

    def __repr__(self) -> str:
        state = "lost" if self.lost else "held" if self._is_held else "not held"
        incarnation = f" incarnation={self.incarnation}" if self.incarnation else ""
        return f"<{type(self).__name__} {self.name!r}{incarnation} {state}>"
