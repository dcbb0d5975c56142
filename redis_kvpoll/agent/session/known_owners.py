"""The names of the owners in a table, for the clients that share it: they ask together, as many rooms fail at once.

Invariant: one read is under way at a time, whoever asks.
"""

from __future__ import annotations

import asyncio
import math
import time

from redis_kvpoll.aio import hosted
from redis_kvpoll.aio.callers import result_of
from redis_kvpoll.aio.store import AsyncStatusStore

FRESH_SECONDS = 1.0
"""How long a read is used."""


class KnownOwners:
    """The names of the owners in a store's table, those lost in the last hour included."""

    def __init__(self, store: AsyncStatusStore) -> None:
        self._store = store
        self._began_at = -math.inf
        self._reading: asyncio.Task[list[str]] | None = None

    async def read(self) -> list[str]:
        """Return the names, as of a second ago or later."""
        is_old = time.monotonic() - self._began_at > FRESH_SECONDS
        if self._reading is None or (self._reading.done() and is_old):
            self._began_at = time.monotonic()
            self._reading = asyncio.create_task(hosted.owner_names(self._store))
        return await result_of(self._reading)
