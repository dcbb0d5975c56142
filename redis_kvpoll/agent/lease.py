"""The lease of one process of SGLang, which goes on under a new one after it has lost one; and the other role's."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from redis_kvpoll.aio.lease import AsyncLease
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.errors import KVPollError

SHUTDOWN_SECONDS = 1.0
"""When a process ends: the time limit for publishing what is pending, and then for giving up the lease."""


class ReplaceableLease:
    """The lease of a process, which can be replaced once it is lost. A context manager."""

    def __init__(self, store: AsyncStatusStore, owner: str, ttl: float) -> None:
        self.ttl = ttl
        self._store = store
        self._owner = owner
        self._current: AsyncLease | None = None

    @property
    def is_lost(self) -> bool:
        return self._current is None or self._current.lost

    async def replace(self) -> None:
        """Take a new lease."""
        if self._current is not None:
            await self._current.aclose()
            self._current = None
        lease = self._store.lease(self._owner, ttl=self.ttl)
        await lease.__aenter__()
        self._current = lease

    async def __aenter__(self) -> ReplaceableLease:
        await self.replace()
        return self

    async def __aexit__(self, *_: Any) -> None:
        if self._current is not None:
            with contextlib.suppress(KVPollError, TimeoutError):
                async with asyncio.timeout(SHUTDOWN_SECONDS):
                    await self._current.aclose()


async def reap(store: AsyncStatusStore, seconds: float) -> None:
    """Fail the rooms of the other role's lost processes, also when none of that role is left to do it."""
    while True:
        with contextlib.suppress(KVPollError):
            await store.reap()
        await asyncio.sleep(seconds)
