"""The task that runs a follower.

Invariant: the task refers to the store's mirror or waits weakly, and to no connection of the store's.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Collection
from typing import Any

from redis_kvpoll.aio.callers import LastingTask
from redis_kvpoll.aio.dispatcher import AsyncDispatcher, drive
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.replica.health import REJECTED_RETRY
from redis_kvpoll.replica.requests import AnyFollower, AskStore, FollowerEffect, OrphanedError

logger = logging.getLogger("redis_kvpoll.mirror")


class TaskTurn:
    """The turn of a task to call the listeners: no other task runs meanwhile."""

    def take(self) -> bool:
        return True

    def give_back(self) -> None:
        pass

    def may_be_interrupted(self) -> bool:
        return threading.current_thread() is threading.main_thread()  # no other thread gets Ctrl-C


class FollowerTask:
    """Runs the sessions of a follower one after the other, each over connections of its own."""

    def __init__(self, dispatcher: AsyncDispatcher, follower: AnyFollower, namespace: str) -> None:
        self.follower = follower
        self._dispatcher = weakref.ref(dispatcher)
        self._clone = dispatcher.transport.clone()
        self._name = f"kvpoll-follow-{namespace}"
        self._is_stopped = False
        self._start()

    def _start(self) -> None:
        """Start the task, and again whenever anything but ``stop`` cancels it."""
        if not self._is_stopped:
            self._task = LastingTask(self._run(), self._name, self._start)

    def runs_in(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self._task.get_loop() is loop

    @staticmethod
    async def stop(tasks: Collection[FollowerTask]) -> None:
        """Stop tasks, and wait for their ends, unless one is the current task.

        All are cancelled before the first wait: the caller may be cancelled meanwhile.
        """
        loop, current = asyncio.get_running_loop(), asyncio.current_task()
        found = {each._task for each in tasks if each.runs_in(loop)}  # others ended with their event loop
        for each in tasks:
            each._is_stopped = True
        for task in found:
            task.cancel()
        if found := found - {current}:
            await asyncio.wait(found)

    async def _run(self) -> None:
        pause: float | None = 0.0
        while pause is not None:
            await asyncio.sleep(pause)
            session: Any = self.follower.session()  # a flow with AskStore
            self._clone = self._clone.clone()
            try:
                pause = await drive(session, self._perform)
            except Exception as error:
                logger.exception("a follower's session failed unexpectedly; the next begins in %g s", REJECTED_RETRY)
                pause = self.follower.health.failed_unexpectedly(error)
            finally:
                session.close()
                await self._clone.close()

    async def _perform(self, effect: FollowerEffect) -> Any:
        return await (self._ask_store(effect) if isinstance(effect, AskStore) else self._clone.perform(effect))

    async def _ask_store(self, effect: AskStore) -> bool | KVPollError:
        if (dispatcher := self._dispatcher()) is None:
            return False
        try:
            return await dispatcher.run(effect.host.ask_store(effect.room))
        except KVPollError as error:
            return error
        except OrphanedError:
            return False
