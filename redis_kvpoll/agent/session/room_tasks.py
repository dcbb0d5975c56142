"""The tasks in which a client's rooms are published: one for each room, and a bounded number at once.

Invariant: what is sent for rooms is never so much that a heartbeat behind it comes too late.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

MAX_AT_ONCE = 250
"""Rooms for which the server is asked at one time. After an outage thousands wait. Sent at once, they would keep
heartbeats waiting for longer than the lease, and each other for longer than a call's deadline."""


class RoomTasks:
    """The tasks. ``publish`` publishes one room."""

    def __init__(self, publish: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        self._publish = publish
        self._running: dict[int, asyncio.Task[None]] = {}
        self._waiting: OrderedDict[int, None] = OrderedDict()
        """Rooms whose task has not begun. A dict's front is slow to reach once much was deleted there."""
        self._pauses = 0

    def __contains__(self, room: int) -> bool:
        return room in self._running or room in self._waiting

    @property
    def is_idle(self) -> bool:
        """Whether there is none."""
        return not self._running  # while one waits, others run

    @property
    def awaits_answer(self) -> bool:
        """Whether one has asked the server, and has no answer yet."""
        return self._pauses < len(self._running)

    def start(self, room: int) -> None:
        """Publish a room that has no task, as soon as there is room for one more."""
        self._waiting[room] = None
        self._start_next()

    async def pause(self, seconds: float) -> None:
        """Let a task wait, and another one run meanwhile; longer while too many run."""
        self._pauses += 1
        try:
            self._start_next()
            await asyncio.sleep(seconds)
            while self._is_full:  # noqa: ASYNC110 - who ends gives its place to one that waits, not to one that pauses
                await asyncio.sleep(seconds)
        finally:
            self._pauses -= 1

    async def wait(self) -> None:
        """Return once those that run now have ended. There must be one."""
        await asyncio.wait(list(self._running.values()))

    def cancel(self) -> None:
        """Cancel all."""
        self._waiting.clear()
        for task in self._running.values():
            task.cancel()

    @property
    def _is_full(self) -> bool:
        return len(self._running) - self._pauses >= MAX_AT_ONCE

    def _start_next(self) -> None:
        while self._waiting and not self._is_full:
            room, _ = self._waiting.popitem(last=False)
            self._running[room] = asyncio.create_task(self._run(room))

    async def _run(self, room: int) -> None:
        try:
            await self._publish(room)
        finally:
            del self._running[room]
            self._start_next()
