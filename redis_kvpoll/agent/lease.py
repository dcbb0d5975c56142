"""The lease of one client, which goes on under a new one after it has lost one; and the leases of the other table."""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from typing import Any, Protocol

from redis_kvpoll.aio.lease import AsyncLease, abandon, renew_unless, resume, state_of
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.engine.lease_state import LeaseState
from redis_kvpoll.errors import KVPollError, LeaseLostError

SHUTDOWN_SECONDS = 1.0
"""When a process ends: the time limit for publishing what is pending, and then for giving up the lease."""


LEASE_LOST = (
    "{} lost its lease: no heartbeat for more than KVPOLL_LEASE ({:g} s), or another process uses the same name; its "
    "in-flight rooms were failed; continuing under a new lease"
)


class Ending(Enum):
    """What becomes of a lease at the end."""

    LEAVE = "leave"
    """The client leaves: its live rooms fail, "owner ... left"."""
    LOST = "lost"
    """The client is dead: its live rooms fail, "owner ... lost"."""
    KEEP = "keep"
    """The client lives, or nobody knows: the lease expires, unless another store resumes it."""


class LeaseClient(Protocol):
    """A client, as far as its lease depends on it."""

    ending: Ending | None

    def stands_still(self) -> bool:
        """Whether it does, as far as is known: then its lease is not renewed."""


class ReplaceableLease:
    """The lease of a client, which can be replaced once it is lost. A context manager.

    ``former`` is the lease that the client had from another store, if any.
    """

    def __init__(
        self,
        store: AsyncStatusStore,
        owner: str,
        ttl: float,
        client: LeaseClient,
        former: LeaseState | None = None,
    ) -> None:
        self.ttl = ttl
        self.was_lost = False
        """Whether the former lease was lost."""
        self._store = store
        self._owner = owner
        self._client = client
        self._former = former
        self._current: AsyncLease | None = None

    @property
    def is_lost(self) -> bool:
        return self._current is None or self._current.lost

    @property
    def state(self) -> LeaseState | None:
        """What another store needs to resume it."""
        return None if self._current is None else state_of(self._current)

    async def replace(self) -> None:
        """Take a new lease."""
        if self._current is not None:
            await self._current.aclose()
            self._current = None
        lease = self._new()
        await lease.__aenter__()
        self._current = lease

    def _new(self) -> AsyncLease:
        lease = self._store.lease(self._owner, ttl=self.ttl)
        renew_unless(lease, self._client.stands_still)
        return lease

    async def abandon(self) -> None:
        """Stop renewing it: whether its client is dead is not known."""
        if self._current is not None:
            await abandon(self._current, as_lost=False)

    async def __aenter__(self) -> ReplaceableLease:
        if self._former is not None:
            lease = self._new()
            try:
                await resume(lease, self._former)
            except LeaseLostError:
                self.was_lost = True
            else:
                self._current = lease
                return self
        await self.replace()
        return self

    async def __aexit__(self, *_: Any) -> None:
        if self._current is not None:
            with contextlib.suppress(KVPollError, TimeoutError):
                async with asyncio.timeout(SHUTDOWN_SECONDS):
                    if self._client.ending in (None, Ending.LEAVE):
                        await self._current.aclose()
                    else:
                        await abandon(self._current, as_lost=self._client.ending is Ending.LOST)


async def reap(store: AsyncStatusStore, seconds: float) -> None:
    """Fail the rooms of lost owners of another table, also when none of its owners is left to do it."""
    while True:
        with contextlib.suppress(KVPollError):
            await store.reap()
        await asyncio.sleep(seconds)
