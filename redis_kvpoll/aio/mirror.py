"""The mirror and the waits of asyncio. The same as ``blocking``, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from redis_kvpoll._fork import forkable
from redis_kvpoll.aio.dispatcher import AsyncDispatcher
from redis_kvpoll.aio.follower import FollowerTask, await_outcome, until, waker
from redis_kvpoll.errors import RoomNotFoundError, StoreClosedError
from redis_kvpoll.model import KVPoll
from redis_kvpoll.replica.mirror_base import IDLE_TIMEOUT, MirrorBase, ReplicaHost, checked_wait, followed, groups
from redis_kvpoll.replica.replica import Replica


class AsyncMirror(MirrorBase):
    """Mirror for asyncio: an async context manager, with ``aclose``, whose ``wait`` is awaited and may be cancelled.

    Reading needs no await. It is kept by a task of the event loop in which it was entered, so it is only as current as
    that loop gets to run. It does not survive ``fork``: in the child it is closed.
    """

    def __init__(self, dispatcher: AsyncDispatcher, rooms: Callable[[int], bool] | None) -> None:
        super().__init__(dispatcher.executor, rooms)
        self._dispatcher = dispatcher
        self._transport = dispatcher.transport
        self._tasks: list[FollowerTask] = []
        self._news = asyncio.Event()
        self._forked_from: int | None = None
        forkable.add(self)

    async def wait(self, room: int, *statuses: KVPoll | int, timeout: float | None = None) -> KVPoll:  # noqa: ASYNC109
        """Wait until a room is at one of ``statuses`` (Success and Failed, if there are none) or further on.

        As ``StatusStore.wait``, but a room that this copy does not hold is taken to be absent, though another process
        may have made it a moment ago. While the mirror is not synced, nobody is woken by what may be old.

        Raises:
            WaitTimeoutError: it did not get there within ``timeout`` seconds (a TimeoutError).
            RoomNotFoundError: the room is absent, or is gone before it got there (a KeyError).
        """
        woken = asyncio.get_running_loop().create_future()
        replica, waiter, seconds = self._enter(room, statuses, timeout, lambda: waker(woken))
        try:
            return await await_outcome(replica, waiter, woken, until(seconds), seconds)
        finally:
            replica.leave(waiter)

    async def aclose(self) -> None:
        """Stop following; who waits gets StoreClosedError. May be repeated."""
        self._closed = True
        await self._stop()

    async def __aenter__(self) -> Self:
        if self._closed or self._replica is not None:
            raise self._refuse("mirror")
        context = await self._dispatcher.run(self._executor.context("mirror"))
        self._prepare(context, contextlib.nullcontext(), self._transport, may_end=lambda: False)
        self._tasks = [FollowerTask(self._transport, one, context.namespace) for one in self._followers]
        try:
            await self._await_first_sync()
        except BaseException:
            await self._stop()
            raise
        self._bind()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _open_replica(self, operation: str) -> Replica:
        if self._forked_from is not None:
            raise StoreClosedError(
                f"{operation}: this mirror lives in process {self._forked_from}, of which this one is a fork; "
                "make one here"
            )
        if self._replica is None:
            raise self._refuse(operation)
        return self._replica

    async def _await_first_sync(self) -> None:
        while not self._has_begun():
            await self._news.wait()
            self._news.clear()

    def _has_news(self) -> None:
        self._news.set()

    async def _stop(self) -> None:
        self._unbind()
        self._news.set()
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.end(self._refuse("wait"))
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            await task.stop()

    def after_fork(self) -> None:
        """In the child: its event loop is the parent's."""
        self._unbind()
        if self._replica is not None:
            self._forked_from = os.getppid()
        self._closed = True
        self._replica, self._followers, self._tasks = None, [], []


class AsyncWaitRegistry(ReplicaHost):
    """Who waits for rooms of a store, with what wakes them: a task that follows the feed while there is anybody."""

    def __init__(self, dispatcher: AsyncDispatcher) -> None:
        super().__init__(dispatcher.executor)
        self._dispatcher = dispatcher
        self._transport = dispatcher.transport
        self._tasks: dict[str, FollowerTask] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._quiet_since = 0.0
        forkable.add(self)

    async def wait(
        self,
        read: Callable[[], Awaitable[KVPoll | None]],
        room: int,
        statuses: tuple[KVPoll | int, ...],
        timeout: float | None,  # noqa: ASYNC109 - its error says which room, and what was seen of it
    ) -> KVPoll:
        """Subscribe, ``read`` the room, then sleep: so no change is missed."""
        room, goal, seconds = checked_wait(room, statuses, timeout)
        give_up_at, woken = until(seconds), asyncio.get_running_loop().create_future()
        replica = await self._replica_for_waits()
        waiter = replica.enter(room, goal, lambda: waker(woken), armed=False)
        try:
            self._see_to_task(replica, waiter.tag)
            status = await read()
            if status is None:
                raise RoomNotFoundError(room, "wait")
            if status in goal:
                return status
            replica.arm(waiter)
            return await await_outcome(replica, waiter, woken, give_up_at, seconds)
        finally:
            replica.leave(waiter)
            self._quiet_since = time.monotonic()

    async def close(self) -> None:
        """Stop following; who waits gets StoreClosedError. May be repeated."""
        self._executor.remove_observer(self)
        if self._replica is not None:
            self._replica.end(StoreClosedError("wait: the store was closed"))
        tasks, self._tasks = self._tasks, {}
        for task in set(tasks.values()):
            await task.stop()

    async def _replica_for_waits(self) -> Replica:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # Tasks end with their event loop, and so do those who waited in it; another one starts afresh.
            self.after_fork()
            self._loop = loop
        if self._replica is None:
            context = followed(await self._dispatcher.run(self._executor.context("wait")), "wait")
            if self._replica is None:
                self._replica = Replica(context, contextlib.nullcontext())
                self._executor.add_observer(self)
        return self._replica

    def _see_to_task(self, replica: Replica, tag: str) -> None:
        """There is a task that follows the shard. It goes when it has long been without waiters."""
        if tag in self._tasks:
            return
        self._executor.check_open("wait")
        tags = next(group for group in groups(replica.context, self._transport.clustered) if tag in group)
        follower = self._follower(replica, tags, self._transport, lambda: self._may_end(replica, tags))
        task = FollowerTask(self._transport, follower, replica.context.namespace)
        self._tasks |= dict.fromkeys(tags, task)

    def _may_end(self, replica: Replica, tags: list[str]) -> bool:
        if any(replica.shards[tag].waiters for tag in tags) or time.monotonic() - self._quiet_since < IDLE_TIMEOUT:
            return False
        replica.mark_unsynced(tags)
        for tag in tags:
            self._tasks.pop(tag, None)
        return True

    def after_fork(self) -> None:
        """Without a task; the next to wait starts one."""
        self._executor.remove_observer(self)
        self._replica, self._tasks, self._loop = None, {}, None
