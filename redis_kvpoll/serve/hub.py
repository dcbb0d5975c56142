"""Server-sent events: one encoding of a page's View for all who look at that page.

Invariant: a View is made only while somebody looks, once a second, however many they are. A viewer who reads slowly
misses Views in between, and costs the others nothing. A stream ends with the session that it was opened in.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

INTERVAL = 1.0
KEEP_ALIVE = 15.0
"""Seconds without a change after which a comment is sent: proxies close a connection that is silent for a minute."""
MAX_CHANNELS, MAX_VIEWERS = 100, 500
_RETRY = b"retry: 2000\n\n"

log = logging.getLogger(__name__)

Render = Callable[[], Awaitable[bytes]]


class HubFullError(Exception):
    """There are too many viewers."""


class Channel:
    """The latest View of one page, and those who wait for the next."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._changed = asyncio.Event()
        self.viewers = 0
        self.frame = b""
        self.version = 0

    async def run(self, interval: float) -> None:
        """Make a View after each interval, until cancelled."""
        while True:
            try:
                frame = b"data: " + await self._render() + b"\n\n"
            except Exception:
                log.exception("a page could not be made")
            else:
                if frame != self.frame:
                    self.frame = frame
                    self.version += 1
                    self.wake()
            await asyncio.sleep(interval)

    def wake(self) -> None:
        """Let all who wait look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Wait for the next ``wake``, at most so many seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)


class Hub:
    """The channels that somebody looks at, by the page's address."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._channels: dict[str, Channel] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    @property
    def viewers(self) -> int:
        return sum(channel.viewers for channel in self._channels.values())

    @property
    def pages(self) -> int:
        """How many pages somebody looks at."""
        return len(self._channels)

    def check_room(self, page: str) -> None:
        """Raise HubFullError if there are too many viewers for one more of this page."""
        if self.viewers >= MAX_VIEWERS or (page not in self._channels and len(self._channels) >= MAX_CHANNELS):
            raise HubFullError

    async def stream(self, page: str, render: Render, until: float | None = None) -> AsyncIterator[bytes]:
        """Yield the events of a page until the viewer is gone, the time is ``until``, or the hub is closed."""
        channel = self._enter(page, render)
        try:
            yield _RETRY
            seen = 0
            while not self._closed and (left := math.inf if until is None else until - time.time()) > 0:
                if channel.version != seen:
                    seen = channel.version
                    yield channel.frame
                else:
                    await channel.wait(min(KEEP_ALIVE, left))
                    if channel.version == seen:
                        yield b": still here\n\n"
        finally:
            self._leave(page, channel)

    def close(self) -> None:
        """End all streams: a server waits for them before it stops."""
        self._closed = True
        for task in self._tasks.values():
            task.cancel()
        for channel in self._channels.values():
            channel.wake()

    def _enter(self, page: str, render: Render) -> Channel:
        channel = self._channels.get(page)
        if channel is None:
            channel = self._channels[page] = Channel(render)
            self._tasks[page] = asyncio.create_task(channel.run(self._interval), name=f"page {page}")
        channel.viewers += 1
        return channel

    def _leave(self, page: str, channel: Channel) -> None:
        channel.viewers -= 1
        if not channel.viewers:
            self._channels.pop(page, None)
            if task := self._tasks.pop(page, None):
                task.cancel()
