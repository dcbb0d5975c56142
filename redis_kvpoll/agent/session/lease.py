"""The lease of one client, which goes on under a new one after it has lost one; and the leases of the other table."""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from typing import Any, Protocol

from redis_kvpoll.agent.session.table_member import HeldLease, TableMember
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.engine.leases.lease_state import LeaseState
from redis_kvpoll.errors import KVPollError, LeaseLostError

SHUTDOWN_SECONDS = 1.0
"""When a process ends: the time limit for publishing what is pending, while Redis answers, and then for giving up the
lease."""


LEASE_LOST = (
    "{} lost its lease: no heartbeat for more than KVPOLL_LEASE ({:g} s), or another process uses the same name; its "
    "in-flight rooms were failed; continuing under a new lease"
)


class LeaseEnd(Enum):
    """What becomes of a lease at the end."""

    LEAVE = "leave"
    """The client leaves: its live rooms fail, "owner ... left"."""
    LOST = "lost"
    """The client is dead: its live rooms fail, "owner ... lost"."""
    KEEP = "keep"
    """The client lives, or nobody knows: the lease expires, unless another store resumes it."""


class LeaseClient(Protocol):
    """A client, as far as its lease depends on it."""

    @property
    def lease_ending(self) -> LeaseEnd: ...

    def stands_still(self) -> bool:
        """Whether it does, as far as is known: then its lease is not renewed."""


class ReplaceableLease:
    """The lease of a client, which can be replaced once it is lost. A context manager.

    ``former`` is the lease that the client had from another session, if any.
    """

    def __init__(
        self,
        member: TableMember,
        ttl: float,
        client: LeaseClient,
        former: LeaseState | None = None,
    ) -> None:
        self.ttl = ttl
        self.was_lost = False
        """Whether the former lease was lost."""
        self._member = member
        self._client = client
        self._former = former
        self._current: HeldLease | None = None
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """Why it could not be renewed or replaced the last time; empty if it could."""
        return self._trouble if self._current is None else self._current.trouble

    @property
    def is_lost(self) -> bool:
        return self._current is None or self._current.lost

    @property
    def state(self) -> LeaseState | None:
        """What another session needs to resume it."""
        return None if self._current is None else self._current.state

    async def replace(self) -> None:
        """Take a new lease."""
        if self._current is not None:
            await self._current.aclose()
            self._current = None
        try:
            self._current = await self._hold()
        except LeaseLostError:
            raise  # other processes take this name; the server takes writes
        except KVPollError as error:
            self._trouble = str(error)
            raise

    async def _hold(self, former: LeaseState | None = None) -> HeldLease:
        return await self._member.hold_lease(self.ttl, self._client.stands_still, former)

    async def abandon(self) -> None:
        """Stop renewing it: whether its client is dead is not known."""
        if self._current is not None:
            await self._current.abandon(as_lost=False)

    async def __aenter__(self) -> ReplaceableLease:
        if self._former is not None:
            try:
                self._current = await self._hold(self._former)
            except LeaseLostError:
                self.was_lost = True
            else:
                return self
        await self.replace()
        return self

    async def __aexit__(self, *_: Any) -> None:
        if self._current is not None:
            with contextlib.suppress(KVPollError, TimeoutError):
                async with asyncio.timeout(SHUTDOWN_SECONDS):
                    ending = self._client.lease_ending
                    if ending is LeaseEnd.LEAVE:
                        await self._current.aclose()
                    else:
                        await self._current.abandon(as_lost=ending is LeaseEnd.LOST)


async def reap(store: AsyncStatusStore, seconds: float) -> None:
    """Fail the rooms of lost owners of another table, also when none of its owners is left to do it."""
    while True:
        with contextlib.suppress(KVPollError):
            await store.reap()
        await asyncio.sleep(seconds)
