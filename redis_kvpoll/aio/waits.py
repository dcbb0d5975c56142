"""The waits of a store for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence

from redis_kvpoll._fork import forkable
from redis_kvpoll.aio.dispatcher import AsyncDispatcher
from redis_kvpoll.aio.follower import FollowerTask
from redis_kvpoll.errors import RoomNotFoundError, StoreClosedError, StoreUnavailableError
from redis_kvpoll.model import KVPoll
from redis_kvpoll.replica.host import IDLE_TIMEOUT, ReplicaHost, WaitTurns, arm_or_end, checked_wait, followed, groups
from redis_kvpoll.replica.replica import Replica
from redis_kvpoll.replica.waiter import Waiter


async def await_outcome(
    replica: Replica, waiter: Waiter, woken: asyncio.Future[None], until: float | None, seconds: float | None
) -> KVPoll:
    """Sleep until the waiter is woken, or until a time of the loop, which is ``seconds`` after the call began."""
    if waiter.outcome is None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await woken
    return replica.result(waiter, seconds)


def until(seconds: float | None) -> float | None:
    return None if seconds is None else asyncio.get_running_loop().time() + seconds


def is_over(give_up_at: float | None) -> bool:
    return give_up_at is not None and asyncio.get_running_loop().time() >= give_up_at


def wake_future(woken: asyncio.Future[None]) -> None:
    """Wake the task that awaits ``woken``, unless it was just cancelled."""
    if not woken.done():
        woken.set_result(None)


class AsyncWaitRegistry(ReplicaHost):
    """The waits of a store, and the task that follows the feed for all of them.

    Invariant: a waiter enters before its room is read, and the feed is followed until it leaves: no change is missed.
    """

    def __init__(self, dispatcher: AsyncDispatcher) -> None:
        super().__init__(dispatcher.executor)
        self._dispatcher = dispatcher
        self._tasks: dict[str, FollowerTask] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last_wait_at = 0.0
        forkable.add(self)

    async def wait(
        self,
        read: Callable[[], Awaitable[KVPoll | None]],
        room: int,
        statuses: tuple[KVPoll | int, ...],
        timeout: float | None,  # noqa: ASYNC109 - its error names the room and its last status
    ) -> KVPoll:
        """Wait for a room: subscribe, ``read`` it, then sleep."""
        room, goal, seconds = checked_wait(room, statuses, timeout)
        give_up_at, turns = until(seconds), WaitTurns(self, room, seconds)
        while True:
            try:
                return await self._wait_once(read, room, goal, give_up_at, seconds)
            except (RoomNotFoundError, StoreUnavailableError) as error:
                await self._dispatcher.run(turns.after(error, is_over(give_up_at)))

    async def _wait_once(
        self,
        read: Callable[[], Awaitable[KVPoll | None]],
        room: int,
        goal: frozenset[KVPoll],
        give_up_at: float | None,
        seconds: float | None,
    ) -> KVPoll:
        woken = asyncio.get_running_loop().create_future()
        replica = await self._replica_for_waits()
        waiter = replica.enter(room, goal, lambda: wake_future(woken), armed=False)
        try:
            self._ensure_task(replica, waiter.tag)
            if (status := arm_or_end(replica, waiter, await read())) is not None:
                return status
            return await await_outcome(replica, waiter, woken, give_up_at, seconds)
        finally:
            replica.leave(waiter)
            self._last_wait_at = time.monotonic()

    async def close(self) -> None:
        """Stop following; waits end with StoreClosedError. May be repeated."""
        self._executor.session.remove_observer(self)
        if self._replica is not None:
            self._replica.end(StoreClosedError("wait: the store was closed"))
        tasks, self._tasks = self._tasks, {}
        await FollowerTask.stop(tasks.values())

    async def _replica_for_waits(self) -> Replica:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # Tasks and waiters end with their event loop; another loop starts without them.
            self.after_fork()
            self._loop = loop
        if self._replica is None:
            context = followed(await self._dispatcher.run(self._executor.context("wait")), "wait")
            if self._replica is None:
                self._replica = Replica(context, contextlib.nullcontext())
                self._executor.session.add_observer(self)
        return self._replica

    def _ensure_task(self, replica: Replica, tag: str) -> None:
        """Start the task that follows the shard, unless it runs. It ends some time after the last wait."""
        if tag in self._tasks:
            return
        self._executor.session.check_open("wait")
        transport = self._dispatcher.transport
        tags = next(group for group in groups(replica.context, transport.clustered) if tag in group)
        follower = self._follower(replica, tags, transport)
        task = FollowerTask(self._dispatcher, follower, replica.context.namespace)
        self._tasks |= dict.fromkeys(tags, task)

    def _may_end(self, replica: Replica, tags: Sequence[str]) -> bool:
        if any(replica.shards[tag].waiters for tag in tags) or time.monotonic() - self._last_wait_at < IDLE_TIMEOUT:
            return False
        replica.mark_unsynced(tags)
        for tag in tags:
            self._tasks.pop(tag, None)
        return True

    def after_fork(self) -> None:
        """Reset, without a task: the next wait starts one."""
        self._executor.session.remove_observer(self)
        self._replica, self._tasks, self._loop = None, {}, None
