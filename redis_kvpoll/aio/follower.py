"""A task for each follower, and how asyncio code waits. The same as ``threads``, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from redis_kvpoll.aio.dispatcher import drive
from redis_kvpoll.aio.transport import AsyncTransport
from redis_kvpoll.model import KVPoll
from redis_kvpoll.replica.follow import REJECTED_RETRY, Follower
from redis_kvpoll.replica.replica import Replica
from redis_kvpoll.replica.shard import Waiter

logger = logging.getLogger("redis_kvpoll.mirror")


class FollowerTask:
    """The task that runs a follower, a session after another, each over connections of its own."""

    def __init__(self, transport: AsyncTransport, follower: Follower, namespace: str) -> None:
        self.follower = follower
        self._transport = transport
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"kvpoll-follow-{namespace}")

    def runs_in(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self._task.get_loop() is loop

    async def stop(self) -> None:
        """Stop, and be gone when this returns; unless it is the task itself that says so."""
        if not self.runs_in(asyncio.get_running_loop()):
            return  # it ended with its event loop
        self._task.cancel()
        if self._task is not asyncio.current_task():
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause: float | None = 0.0
        while pause is not None:
            await asyncio.sleep(pause)
            twin, session = self._transport.twin(), self.follower.session()
            pause = REJECTED_RETRY
            try:
                pause = await drive(session, twin.take)
            except Exception:
                logger.exception(
                    "a follower's session ended as it never should; the next begins in %g s", REJECTED_RETRY
                )
            finally:
                session.close()
                await twin.close()


async def await_outcome(
    replica: Replica, waiter: Waiter, woken: asyncio.Future[None], until: float | None, seconds: float | None
) -> KVPoll:
    """Sleep until the waiter is woken. ``until`` is a time of the loop, that of ``seconds`` from the beginning."""
    if waiter.outcome is None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await woken
    return replica.result(waiter, seconds)


def until(seconds: float | None) -> float | None:
    return None if seconds is None else asyncio.get_running_loop().time() + seconds


def waker(woken: asyncio.Future[None]) -> None:
    """Wake who awaits, unless that was cancelled just now."""
    if not woken.done():
        woken.set_result(None)
