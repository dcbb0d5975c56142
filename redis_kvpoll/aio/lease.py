"""The lease for asyncio, which a task renews."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from redis_kvpoll._fork import forkable
from redis_kvpoll.aio.callers import LastingTask
from redis_kvpoll.aio.dispatcher import AsyncDispatcher
from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.engine.leases.lease import LeaseKeeper
from redis_kvpoll.engine.leases.lease_base import LeaseBase
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.protocol.lease_commands import LeaseConfig

CHECK_SECONDS = 0.05
"""Between two checks whether a process still stands still."""

logger = logging.getLogger("redis_kvpoll.leases")


class AsyncLease(LeaseBase):
    """Lease for asyncio: an async context manager, with ``aclose``.

    A task of the event loop in which it was entered renews it: a loop that is blocked for longer than ``ttl`` loses it,
    as a stopped process does.
    """

    def __init__(self, dispatcher: AsyncDispatcher, config: LeaseConfig) -> None:
        super().__init__(dispatcher.executor, config)
        self._dispatcher = dispatcher
        forkable.add(self)
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """Release the lease. May be repeated."""
        async with self._ending() as was_held:
            if was_held:
                await self._dispatcher.run(self._keeper.release())

    async def __aenter__(self) -> Self:
        return await self._hold(self._keeper.take())

    async def _hold(self, flow: Flow[None]) -> Self:
        """Hold the lease that a flow takes, and renew it."""
        self._executor.recovery.check_no_lease()  # before the try: to enter a held lease again must not end it
        try:
            await self._dispatcher.run(flow)
        except BaseException:
            self._keeper.stop_renewing()  # it may have been taken, but no task renews it
            raise
        self._is_held, self._forked_from = True, None
        self._stopping = asyncio.Event()
        self._start()
        return self

    def _start(self) -> None:
        """Start the task that renews the lease, unless it runs or was stopped."""
        if not self._stopping.is_set() and (self._task is None or self._task.done()):
            self._task = LastingTask(self._keep(), f"kvpoll-lease-{self.name}", self._start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _keep(self) -> None:
        stopping, keeper = self._stopping, self._keeper
        while not await _is_set(stopping, keeper.seconds_until_heartbeat()):
            if keeper.stands_still():
                await asyncio.sleep(CHECK_SECONDS)
                continue
            await send_heartbeat(self._dispatcher, keeper)
            if keeper.lost:
                return

    @contextlib.asynccontextmanager
    async def _ending(self) -> AsyncIterator[bool]:
        """A block that begins when no heartbeat is sent any more, and after which the lease is let go of.

        Yields whether it was held.
        """
        was_held, self._is_held = self._is_held, False
        try:
            if was_held:
                await self._stop()
            yield was_held
        finally:  # also if it is cancelled: a lease that nobody renews is none
            if was_held:
                self._keeper.stop_renewing()

    async def _stop(self) -> None:
        self._stopping.set()
        task, self._task = self._task, None
        if task is None or task is asyncio.current_task() or task.get_loop() is not asyncio.get_running_loop():
            return  # or it ended with its event loop
        await asyncio.wait([task])

    def after_fork(self) -> None:
        """Reset in the child, where the event loop does not run."""
        self._task = None
        self._forked()


async def send_heartbeat(dispatcher: AsyncDispatcher, keeper: LeaseKeeper) -> None:
    """Send the heartbeat of a lease. Whatever fails, the next one tries again."""
    try:
        await dispatcher.run(keeper.send_heartbeat())
    except KVPollError as error:
        keeper.heartbeat_failed(error)
    except Exception:
        logger.exception("a heartbeat of %s failed unexpectedly; the next tries again", keeper)


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, up to ``seconds``; return whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
