"""The task that runs a follower."""

from __future__ import annotations

import asyncio
import logging

from redis_kvpoll.aio.dispatcher import drive
from redis_kvpoll.aio.transport import AsyncTransport
from redis_kvpoll.replica.follow import REJECTED_RETRY, Follower

logger = logging.getLogger("redis_kvpoll.mirror")


class FollowerTask:
    """Runs the sessions of a follower one after the other, each over connections of its own."""

    def __init__(self, transport: AsyncTransport, follower: Follower, namespace: str) -> None:
        self.follower = follower
        self._transport = transport
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"kvpoll-follow-{namespace}")

    def runs_in(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self._task.get_loop() is loop

    async def stop(self) -> None:
        """Stop the task, and wait for its end, unless it is the current one."""
        if not self.runs_in(asyncio.get_running_loop()):
            return  # it ended with its event loop
        self._task.cancel()
        if self._task is not asyncio.current_task():
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause: float | None = 0.0
        while pause is not None:
            await asyncio.sleep(pause)
            clone, session = self._transport.clone(), self.follower.session()
            pause = REJECTED_RETRY
            try:
                pause = await drive(session, clone.perform)
            except Exception:
                logger.exception("a follower's session failed unexpectedly; the next begins in %g s", REJECTED_RETRY)
            finally:
                session.close()
                await clone.close()
