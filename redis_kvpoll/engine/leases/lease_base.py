"""The base of Lease and AsyncLease: everything that needs no call."""

from __future__ import annotations

import os
from dataclasses import replace

from redis_kvpoll._process import OfOneProcess, this_process
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.leases.lease import LeaseKeeper
from redis_kvpoll.errors import StoreClosedError
from redis_kvpoll.protocol.lease_commands import LeaseConfig


class LeaseBase(OfOneProcess):
    """The state of a lease, without I/O."""

    def __init__(self, executor: Executor, config: LeaseConfig) -> None:
        self._executor = executor
        self._keeper = LeaseKeeper(executor, replace(config, process=config.process or this_process()))
        self._is_held = False
        self._forked_from: int | None = None

    @property
    def name(self) -> str:
        """The name of the owner, which rooms that are created under the lease carry."""
        return self._keeper.name

    @property
    def ttl(self) -> float:
        """Seconds from the last heartbeat to the expiry of the lease."""
        return self._keeper.config.ttl

    @property
    def heartbeat(self) -> float:
        """Seconds between heartbeats after one has failed; by default ``ttl`` / 10, and 0.3 of ``ttl`` before that."""
        return self._keeper.config.retry_interval

    @property
    def incarnation(self) -> int:
        """The time at which the lease was taken, in microseconds, higher for each later lease of the name; 0 before."""
        return int(self._keeper.incarnation or 0)

    @property
    def lost(self) -> bool:
        """Whether the lease is known to be lost: it expired, or another process took its name."""
        return self._keeper.lost

    def check(self) -> None:
        """Raise an error unless the lease is held.

        Raises:
            LeaseLostError: the lease is known to be lost.
            StoreClosedError: the lease was not entered, was closed, or belongs to the parent of a fork.
        """
        self._keeper.check("check")
        if self._forked_from is not None:
            process = self._forked_from
            raise StoreClosedError(f"check: this lease is held by process {process}, the parent of this one")
        if not self._is_held:
            raise StoreClosedError("check: this lease is not held: enter it with a with statement")

    def _forked(self) -> None:
        """In the child of a fork: leave the lease to the parent. The store continues without one."""
        if self._is_held:
            self._forked_from, self._is_held = os.getppid(), False
        self._keeper.stop_renewing()

    def __repr__(self) -> str:
        state = "lost" if self.lost else "held" if self._is_held else "not held"
        incarnation = f" incarnation={self.incarnation}" if self.incarnation else ""
        return f"<{type(self).__name__} {self.name!r}{incarnation} {state}>"
