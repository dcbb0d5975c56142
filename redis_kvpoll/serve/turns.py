"""Turns for what viewers ask for and takes long, such as a whole feed: together it has a bounded share of the CPU."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.exceptions import HTTPException

SHARE = 0.25
"""Of the time, for all turns together: a pause follows each."""
MOST_WAITING = 5


class BusyError(HTTPException):
    """Too many wait for their turn."""

    def __init__(self) -> None:
        super().__init__(503, "too many ask for this at once: try again in some seconds", {"retry-after": "5"})


class Turns:
    """Lets one in at a time."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore()
        self._waiting = 0

    @property
    def is_taken(self) -> bool:
        """Whether a new one has to wait."""
        return self._free.locked()

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a turn, which lasts for the block; raises BusyError if too many wait already."""
        if self._waiting >= MOST_WAITING:
            raise BusyError
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        began = time.monotonic()
        try:
            yield
        finally:
            pause = (time.monotonic() - began) * (1 / SHARE - 1)
            asyncio.get_running_loop().call_later(pause, self._free.release)
