"""Statistics for asyncio, and their task."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Any, Self

from redis_kvpoll import validation
from redis_kvpoll._fork import forkable
from redis_kvpoll.aio.dispatcher import AsyncDispatcher
from redis_kvpoll.aio.follower import FollowerTask
from redis_kvpoll.statistics.base import StatisticsBase
from redis_kvpoll.statistics.model import Snapshot


class AsyncStatistics(StatisticsBase):
    """Statistics for asyncio: an async context manager, with ``aclose``, whose ``wait_synced`` is awaited.

    Reads need no await. A task of the event loop in which it was entered keeps it current.
    """

    def __init__(self, dispatcher: AsyncDispatcher, stuck_after: Any, lookback: Any, share: Any) -> None:
        super().__init__(dispatcher.executor, stuck_after, lookback, share)
        self._dispatcher = dispatcher
        self._task: FollowerTask | None = None
        forkable.add(self)

    async def wait_synced(self, timeout: float | None = None) -> Snapshot:  # noqa: ASYNC109
        """Wait until all rooms are known, and return the snapshot of that moment.

        Raises:
            StoreUnavailableError: the table was not read within ``timeout`` seconds, or the server does not answer.
        """
        seconds = validation.timeout(timeout)
        give_up_at = None if seconds is None else time.monotonic() + seconds
        while (snapshot := self._first_sync()) is None:
            if seconds is not None and give_up_at is not None and time.monotonic() >= give_up_at:
                raise self._timed_out(seconds)
            await asyncio.sleep(0.02)
        return snapshot

    async def aclose(self) -> None:
        """Stop reading. May be repeated."""
        self._closed = True
        task, self._task, self._follower = self._task, None, None
        if task is not None:
            await FollowerTask.stop([task])

    async def __aenter__(self) -> Self:
        if self._closed or self._task is not None:
            raise self._refuse_entry()
        follower = self._prepare(contextlib.nullcontext(), self._dispatcher.transport)
        self._task = FollowerTask(self._dispatcher, follower, self._executor.namespace)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def after_fork(self) -> None:
        """Reset in the child, where the event loop does not run."""
        self._closed, self._task, self._follower = True, None, None
