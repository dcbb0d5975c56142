"""The mirror for asyncio, and its tasks."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from types import TracebackType
from typing import Self

from redis_kvpoll._fork import forkable
from redis_kvpoll.aio.dispatcher import AsyncDispatcher
from redis_kvpoll.aio.follower import FollowerTask, TaskTurn
from redis_kvpoll.aio.waits import await_outcome, is_over, until, wake_future
from redis_kvpoll.errors import RoomNotFoundError, StoreClosedError, StoreUnavailableError
from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol import room_commands
from redis_kvpoll.replica.host import WaitTurns, arm_or_end
from redis_kvpoll.replica.mirror_base import MirrorBase
from redis_kvpoll.replica.replica import Replica


class AsyncMirror(MirrorBase):
    """Mirror for asyncio: an async context manager, with ``aclose``, whose ``wait`` is awaited and may be cancelled.

    Reads need no await. A task of the event loop in which it was entered keeps it current, so it gets old while
    the loop is blocked. In a child of ``fork`` it is closed.
    """

    def __init__(self, dispatcher: AsyncDispatcher, rooms: Callable[[int], bool] | None, period: float | None) -> None:
        super().__init__(dispatcher.executor, rooms, period, TaskTurn())
        self._dispatcher = dispatcher
        self._tasks: list[FollowerTask] = []
        self._progress = asyncio.Event()
        self._forked_from: int | None = None
        forkable.add(self)

    async def wait(self, room: int, *statuses: KVPoll | int, timeout: float | None = None) -> KVPoll:  # noqa: ASYNC109
        """Wait until a room is at one of ``statuses`` (Success and Failed, if there are none) or further on.

        As ``StatusStore.wait``, but only a room that is not in this copy is read from the server first. While the
        mirror is not synced, its statuses end no wait.

        Raises:
            WaitTimeoutError: the room did not reach it within ``timeout`` seconds (a TimeoutError).
            RoomNotFoundError: the room is absent, or is removed before it reaches it (a KeyError).
        """
        room, goal, seconds = self._checked_wait(room, statuses, timeout)
        give_up_at, turns = until(seconds), WaitTurns(self, room, seconds)
        while True:
            try:
                return await self._wait_once(room, goal, give_up_at, seconds)
            except (RoomNotFoundError, StoreUnavailableError) as error:
                await self._dispatcher.run(turns.after(error, is_over(give_up_at)))

    async def _wait_once(
        self, room: int, goal: frozenset[KVPoll], give_up_at: float | None, seconds: float | None
    ) -> KVPoll:
        woken = asyncio.get_running_loop().create_future()
        replica, waiter = self._enter(room, goal, lambda: wake_future(woken))
        try:
            if not waiter.armed:
                read = await self._dispatcher.execute(room_commands.wait(room))
                if (status := arm_or_end(replica, waiter, read)) is not None:
                    return status
            return await await_outcome(replica, waiter, woken, give_up_at, seconds)
        finally:
            replica.leave(waiter)

    async def aclose(self) -> None:
        """Stop following; waits end with StoreClosedError. May be repeated."""
        self._closed = True
        await self._stop()

    async def __aenter__(self) -> Self:
        if self._closed or self._replica is not None:
            raise self._refuse_entry()
        context = await self._dispatcher.run(self._executor.context("mirror"))
        if self._replica is not None:  # another task has entered meanwhile
            raise self._refuse_entry()
        self._prepare(context, contextlib.nullcontext(), self._dispatcher.transport)
        self._tasks = [FollowerTask(self._dispatcher, one, context.namespace) for one in self._followers]
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
                f"{operation}: this mirror belongs to process {self._forked_from}, of which this one is a fork; "
                "make one here"
            )
        if self._replica is None or not self._is_open:
            raise self._refuse(operation)
        return self._replica

    async def _await_first_sync(self) -> None:
        while not self._has_begun():
            await self._progress.wait()
            self._progress.clear()

    def _progressed(self) -> None:
        self._progress.set()

    async def _stop(self) -> None:
        self._unbind()
        self._progress.set()
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.end(self._refuse("wait"))
        tasks, self._tasks = self._tasks, []
        await FollowerTask.stop(tasks)

    def after_fork(self) -> None:
        """Reset in the child, where the event loop does not run."""
        self._unbind()
        if self._replica is not None:
            self._forked_from = os.getppid()
        self._closed = True
        self._replica, self._followers, self._tasks = None, [], []
