"""The follower of failures for asyncio, and its tasks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from redis_kvpoll._fork import forkable
from redis_kvpoll.aio.dispatcher import AsyncDispatcher
from redis_kvpoll.aio.follower import FollowerTask, TaskTurn
from redis_kvpoll.replica.failures_base import FailuresBase


class AsyncFailures(FailuresBase):
    """Failures for asyncio: an async context manager, with ``aclose``.

    A task of the event loop in which it was entered follows. In a child of ``fork`` it is closed.
    """

    def __init__(self, dispatcher: AsyncDispatcher, rooms: Callable[[], Iterable[int]]) -> None:
        super().__init__(dispatcher.executor, rooms, TaskTurn())
        self._dispatcher = dispatcher
        self._tasks: list[FollowerTask] = []
        self._progress = asyncio.Event()
        forkable.add(self)

    async def aclose(self) -> None:
        """Stop following. May be repeated."""
        self._closed = True
        self._executor.session.remove_observer(self)
        self._progress.set()
        tasks, self._tasks = self._tasks, []
        await FollowerTask.stop(tasks)

    async def __aenter__(self) -> Self:
        if self._closed or self._log is not None:
            raise self._refuse_entry()
        context = await self._dispatcher.run(self._executor.context("failures"))
        self._prepare(context, contextlib.nullcontext(), self._dispatcher.transport)
        self._tasks = [FollowerTask(self._dispatcher, one, context.namespace) for one in self._followers]
        try:
            while not self._has_begun():
                await self._progress.wait()
                self._progress.clear()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _progressed(self) -> None:
        self._progress.set()

    def after_fork(self) -> None:
        """Close it in the child, where the event loop does not run."""
        self._closed = True
        self._executor.session.remove_observer(self)
        self._tasks = []
