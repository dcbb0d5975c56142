"""Saying to the table what the registry has: for each room in order, and of many rooms at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable

from redis_kvpoll.aio.room import AsyncRoom
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.errors import KVPollError, LeaseLostError, RoomBusyError, ServerRefusedError, StoreUnavailableError
from redis_kvpoll.integrations.sglang.merge import FAILED, OPENING
from redis_kvpoll.integrations.sglang.outbox import RoomLife
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from redis_kvpoll.model import KVPoll

BUSY_SECONDS = 0.02, 1.0
"""The first pause before a room that is taken is tried again, and the longest: other ranks have yet to clear its last
life, or the lease of who has it is to lapse."""
REFUSED_SECONDS = 5.0
"""The longest before what the server has refused (for want of memory, or of permission) is tried again."""
CALM_SECONDS = 60.0
"""After so long without a refusal the next is worth a line again."""
REASON_PAUSE = 0.01
"""Seconds between looks for another rank's reason."""

logger = logging.getLogger("redis_kvpoll")


class OutboxPublisher:
    """One task for each room that has changes to publish. What fails while Redis is away goes back into the registry.

    ``opened`` is told of each room that the table knows from then on.
    """

    def __init__(
        self, store: AsyncStatusStore, registry: RoomRegistry, request: str, opened: Callable[[int], object]
    ) -> None:
        self.is_up = asyncio.Event()
        """Whether the server is there. Cleared when a call finds it is not: then all waits in the registry, bounded."""
        self._store = store
        self._registry = registry
        self._request = request
        self._opened = opened
        self._handles: dict[int, tuple[int, AsyncRoom]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._refused_at = -math.inf

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being said just now."""
        return not self._tasks

    def knows(self, room: int) -> int | None:
        """The use of a room by which the table knows it; None if that is not the one that is under way."""
        number, _ = self._handles.get(room, (None, None))
        return number if number is not None and number == self._registry.number_of(room) else None

    def parse_status(self) -> list[tuple[int, int]]:
        """All of these."""
        return [(room, number) for room in list(self._handles) if (number := self.knows(room)) is not None]

    def see_to(self, rooms: list[int]) -> None:
        """There is news of these rooms."""
        if self.is_up.is_set():
            for room in rooms:
                if room not in self._tasks:
                    self._tasks[room] = asyncio.create_task(self._tell(room))

    def resume(self) -> None:
        """The server is there."""
        if not self.is_up.is_set():
            self.is_up.set()
            self.see_to(self._registry.unsaid())

    async def finish(self) -> None:
        """Say all; return when that is done."""
        await self.is_up.wait()
        self.see_to(self._registry.unsaid())
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def _tell(self, room: int) -> None:
        try:
            while self.is_up.is_set():
                if room in self._registry.awaited:
                    await self._ask_reason(room)
                life = self._registry.take(room)
                if life is None:
                    return
                await self._insist(room, life)
        except Exception:
            logger.exception("redis_kvpoll: room %d: the table was not told, and that should never be", room)
        finally:
            del self._tasks[room]

    async def _insist(self, room: int, life: RoomLife) -> None:
        """Say it, or put it back for when the server is there."""
        pause = BUSY_SECONDS[0]
        while True:
            try:
                await self._say(room, life)
                return
            except StoreUnavailableError:
                self.is_up.clear()
            except LeaseLostError:
                await asyncio.sleep(pause)  # until its rooms are forgotten, and there is a new lease
            except RoomBusyError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, BUSY_SECONDS[1])
            except ServerRefusedError as error:
                self._complain(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, REFUSED_SECONDS)
            except KVPollError as error:
                self._complain(error)
                return
            self._registry.put_back(room, life)
            if not self.is_up.is_set():
                return
            latest = self._registry.take(room)
            if latest is None:
                return
            life = latest
            if life.is_new and life.is_over and pause >= BUSY_SECONDS[1]:
                return  # over before its room was free, or the server willing

    async def _say(self, room: int, life: RoomLife) -> None:
        """Say it all, in the order in which SGLang relies on it: the prefix length is there before the status."""
        number, handle = self._handles.get(room, (0, None))
        status = None if life.status is None else KVPoll(life.status)
        if life.is_new and number != life.number:
            first = status if life.status in OPENING and life.length is None else KVPoll.Bootstrapping
            handle = await self._store.open(room, self._request, first or KVPoll.Bootstrapping)
            self._handles[room] = life.number, handle
            life.is_new = False  # should it be lost before all is said, it is not opened again
            self._opened(room)
            status = None if status is first else status
        elif number != life.number or handle is None:
            return  # the table has taken this process for dead, and failed it
        if life.length is not None:
            await handle.set_decode_prefix_len(life.length)
        if life.status == FAILED:
            await (handle.fail(life.reason) if life.reason else handle.update(KVPoll.Failed))
        elif status is not None:
            await handle.update(status)
        if life.reason and life.status is None:
            await self._store.record_failure(room, life.reason)
        if life.is_over:
            if room in self._registry.awaited:
                await self._ask_reason(room)
            await handle.clear()
            self._handles.pop(room, None)

    async def _ask_reason(self, room: int) -> None:
        """Look for another rank's reason, as long as somebody waits for it; it is gone when all have cleared."""
        with contextlib.suppress(KVPollError):
            while room in self._registry.awaited:
                if reason := await self._store.failure_reason(room):
                    self._registry.note_reason(room, reason)
                    return
                await asyncio.sleep(REASON_PAUSE)

    def forget(self) -> list[tuple[int, int]]:
        """The table has failed all that it knows of this process. Those that are under way. The rest waits."""
        self.is_up.clear()
        known = self.parse_status()
        self._handles.clear()
        return known

    def _complain(self, error: KVPollError) -> None:
        """Say once that something cannot be said: SGLang does not depend on it."""
        last, self._refused_at = self._refused_at, time.monotonic()
        if self._refused_at - last > CALM_SECONDS:
            logger.error("redis_kvpoll: the table does not take what SGLang says, which goes on without it: %s", error)
