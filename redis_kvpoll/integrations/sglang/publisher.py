"""Publishes the registry's changes to the table.

Each room's lives are sent in order; rooms are sent concurrently, so that the store batches them.
A life that cannot be sent goes back into the outbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable

from redis_kvpoll.aio.room import AsyncRoom
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.errors import (
    KVPollError,
    LeaseLostError,
    OutcomeUnknownError,
    RoomBusyError,
    ServerRefusedError,
    StoreUnavailableError,
)
from redis_kvpoll.integrations.sglang.compat import ProcessIdentity
from redis_kvpoll.integrations.sglang.merge import CREATING, FAILED
from redis_kvpoll.integrations.sglang.outbox import RoomLife
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from redis_kvpoll.model import KVPoll
from redis_kvpoll.validation import MAX_REQUEST

FIRST_RETRY_SECONDS = 0.02
"""First pause before a retry, which then doubles: other ranks usually clear a room within milliseconds."""
BUSY_RETRY_SECONDS = 1.0
"""Longest pause before retrying a room that other ranks still hold, or whose old lease has not expired."""
REJECTED_RETRY_SECONDS = 5.0
"""Longest pause before retrying a call that the server has rejected, for lack of memory or permission."""
REJECTED_LOG_SECONDS = 60.0
"""A rejection is logged only if there was none for this long."""
STATUSES = frozenset(map(int, KVPoll))
REASON_POLL_SECONDS = 0.01
"""Pause between reads of another rank's reason."""

logger = logging.getLogger("redis_kvpoll")


class OutboxPublisher:
    """One task for each room with changes. ``on_opened`` is called with each room once the table knows its life."""

    def __init__(
        self,
        store: AsyncStatusStore,
        registry: RoomRegistry,
        identity: ProcessIdentity,
        on_opened: Callable[[int], object],
    ) -> None:
        self.is_online = asyncio.Event()
        """Cleared by a call that finds the server unreachable: then changes wait in the outbox."""
        self._store = store
        self._registry = registry
        self._identity = identity
        self._on_opened = on_opened
        self._handles: dict[int, tuple[int, AsyncRoom]] = {}
        """By room: the number of the life that the table knows, and its handle."""
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._rejected_at = -math.inf

    @property
    def is_idle(self) -> bool:
        """Whether no room is being published."""
        return not self._tasks

    def published_life(self, room: int) -> int | None:
        """Return the number of a room's current life if the table knows it, else None."""
        number, _ = self._handles.get(room, (None, None))
        return number if number is not None and number == self._registry.current_life(room) else None

    def life_of(self, room: int, generation: int) -> int | None:
        """Return the number of a room's current life if the table has it with this generation, else None."""
        _, handle = self._handles.get(room, (None, None))
        return self.published_life(room) if handle is not None and handle.generation == generation else None

    def publish(self, rooms: list[int]) -> None:
        """Publish what these rooms have in the outbox; while the server is unreachable it stays there."""
        if self.is_online.is_set():
            for room in rooms:
                if room not in self._tasks:
                    self._tasks[room] = asyncio.create_task(self._publish_room(room))

    def resume(self) -> None:
        """Publish all that is pending: the server is reachable again."""
        if not self.is_online.is_set():
            self.is_online.set()
            self.publish(self._registry.pending_rooms())

    async def flush(self) -> None:
        """Publish everything before returning."""
        await self.is_online.wait()
        self.publish(self._registry.pending_rooms())
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def _publish_room(self, room: int) -> None:
        try:
            while self.is_online.is_set():
                if room in self._registry.awaiting_reason:
                    await self._fetch_reason(room)
                life = self._registry.take(room)
                if life is None:
                    return
                await self._publish_life(room, life)
        except Exception:
            logger.exception("redis_kvpoll: room %d was not published because of a bug; report this traceback", room)
        finally:
            del self._tasks[room]

    async def _publish_life(self, room: int, life: RoomLife) -> None:
        """Send a life, with retries; put it back while the server is unreachable."""
        pause = FIRST_RETRY_SECONDS
        while True:
            try:
                await self._send(room, life)
                return
            except (StoreUnavailableError, OutcomeUnknownError):
                self.is_online.clear()
            except LeaseLostError:
                await asyncio.sleep(pause)  # until the worker has failed the lost rooms and taken a new lease
            except RoomBusyError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, BUSY_RETRY_SECONDS)
            except ServerRefusedError as error:
                self._log_rejected(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, REJECTED_RETRY_SECONDS)
            except KVPollError as error:
                self._log_rejected(error)
                return
            self._registry.put_back(room, life)
            if not self.is_online.is_set():
                return
            latest = self._registry.take(room)
            if latest is None:
                return
            life = latest
            if life.is_new and life.is_over and pause >= BUSY_RETRY_SECONDS:
                return  # it ended before its room was free or the server accepted it

    async def _send(self, room: int, life: RoomLife) -> None:
        """Send a whole life. The prefix length comes before the status, as SGLang relies on this order."""
        number, handle = self._handles.get(room, (0, None))
        status = KVPoll(life.status) if life.status in STATUSES else None
        if life.is_new and number != life.number:
            first = status if life.status in CREATING and life.length is None else KVPoll.Bootstrapping
            handle = await self._store.open(room, self._request_of(life), first or KVPoll.Bootstrapping)
            self._handles[room] = life.number, handle
            life.is_new = False  # if the connection is lost before the rest is sent, it is not opened again
            self._on_opened(room)
            status = None if status is first else status
        elif number != life.number or handle is None:
            return  # the table has failed this life, as this process lost its lease
        if life.length is not None:
            await handle.set_decode_prefix_len(life.length)
        if life.status == FAILED:
            await (handle.fail(life.reason) if life.reason else handle.update(KVPoll.Failed))
        elif status is not None:
            await handle.update(status)
        if life.reason and life.status is None:
            await self._store.record_failure(room, life.reason)
        if life.is_over:
            if room in self._registry.awaiting_reason:
                await self._fetch_reason(room)
            await handle.clear()
            self._handles.pop(room, None)

    def _request_of(self, life: RoomLife) -> str:
        """Return the request of a life in the table: equal for all ranks of this instance, and for no other life.

        SGLang's id alone is not enough: a router may try one request with a second instance. Without an id it is the
        life's number, which only a single rank can use.
        """
        identity = self._identity
        if life.request:
            id_ = "".join(letter if letter.isprintable() else "?" for letter in life.request)
            return f"{id_[: MAX_REQUEST - len(identity.instance) - 1]} {identity.instance}"
        return identity.instance if identity.world_size > 1 else f"{identity.owner}#{life.number}"

    async def _fetch_reason(self, room: int) -> None:
        """Read until another rank has recorded a reason or no thread waits for it. The last clear removes it."""
        with contextlib.suppress(KVPollError):
            while room in self._registry.awaiting_reason:
                if reason := await self._store.failure_reason(room):
                    self._registry.deliver_reason(room, reason)
                    return
                await asyncio.sleep(REASON_POLL_SECONDS)

    def reset(self) -> list[tuple[int, int]]:
        """Forget the lives that the table has failed; return the current ones, as (room, number).

        Other changes wait until ``resume``.
        """
        self.is_online.clear()
        lives = [(room, number) for room in list(self._handles) if (number := self.published_life(room)) is not None]
        self._handles.clear()
        return lives

    def _log_rejected(self, error: KVPollError) -> None:
        last, self._rejected_at = self._rejected_at, time.monotonic()
        if self._rejected_at - last > REJECTED_LOG_SECONDS:
            logger.error("redis_kvpoll: the status table rejected a change; SGLang continues without it: %s", error)
