"""What joins one process of SGLang to the table: a thread with an event loop, and all that lives in it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import re
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import AsyncExitStack
from typing import Any

from redis_kvpoll.aio.lease import AsyncLease
from redis_kvpoll.aio.mirror import AsyncMirror
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.errors import KVPollError, StoreClosedError
from redis_kvpoll.integrations.sglang.compat import ProcessIdentity
from redis_kvpoll.integrations.sglang.merge import FAILED, SUCCESS
from redis_kvpoll.integrations.sglang.metrics import Metrics
from redis_kvpoll.integrations.sglang.publisher import OutboxPublisher
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from redis_kvpoll.integrations.sglang.settings import Settings
from redis_kvpoll.model import KVPoll

REST_SECONDS = 0.004
"""After news has been seen to: what comes meanwhile goes together, and wakes nobody in SGLang's process."""
LOOK_SECONDS = 0.25
"""Between looks whether the server is there."""
AWAY_SECONDS = 1.0
"""After so long without news it is taken to be away, and not only busy."""
LEAVE_SECONDS = 1.0
"""What the end of a process may take for saying what is still to be said, and again for giving the lease up."""
REASON_SECONDS = 0.25
"""How long SGLang's thread waits for another rank's reason, at the end of a request that has failed without one here:
that is a few milliseconds away, and it is known to come soon or not at all."""

LEASE_LOST = (
    "redis_kvpoll: %s was taken for dead: it stood still for longer than KVPOLL_LEASE, %g s, or another process has "
    "its name; what it had under way is Failed, and it goes on under a new lease"
)
OWNER = re.compile(r"^owner (prefill|decode)/")
"""How the table names the owner of a room that it has failed, when that was lost."""

logger = logging.getLogger("redis_kvpoll")


class TableWorker:
    """The registry of one process, kept in step with the table."""

    def __init__(self, settings: Settings, identity: ProcessIdentity) -> None:
        self.identity = identity
        self.registry = RoomRegistry(self._wake)
        self._settings = settings
        self._metrics_of_link = Metrics(identity.role, identity.owner)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._ending = asyncio.Event()
        self._joined: Future[None] = Future()
        self._mirror: AsyncMirror | None = None
        self._asking: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name=f"kvpoll-{identity.owner}", daemon=True)

    # From SGLang's threads

    def join(self) -> None:
        """Take part; raise what is in the way."""
        self._thread.start()
        try:
            self._joined.result()
        except BaseException:
            self._thread.join(LEAVE_SECONDS)
            raise
        atexit.register(self.close)

    def close(self) -> None:
        """Say what is still to be said, and leave. May be repeated."""
        atexit.unregister(self.close)
        if self._loop is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(3 * LEAVE_SECONDS)

    @property
    def is_idle(self) -> bool:
        """Whether the table has been told all that there was to say."""
        return not len(self.registry) and self._publisher.is_idle

    def statuses_of(self, room: int) -> dict[int, KVPoll]:
        """What the table has of a room's ranks, without asking it; nothing while it may still be of the use before."""
        if self._publisher.knows(room) is None:
            return {}
        assert self._mirror is not None  # noqa: S101 - it has joined
        try:
            return self._mirror.collect(room)
        except StoreClosedError:  # just now
            return {}

    def _wake(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # closed
                self._loop.call_soon_threadsafe(self._news.set)

    # The thread

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            if not self._joined.done():
                self._joined.set_exception(error)
            elif self._joined.exception() is None:
                owner = self.identity.owner
                logger.exception("redis_kvpoll: %s has lost its link to the table; SGLang goes on without it", owner)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._settings.join):
                    tasks = await self._enter(stack)
                    stack.callback(self._part)
            except BaseException as error:
                self._joined.set_exception(error)  # at once: to leave takes time, too
                raise
            self._joined.set_result(None)
            running = [asyncio.create_task(task) for task in tasks]
            ending = asyncio.create_task(self._ending.wait())
            over, _ = await asyncio.wait([ending, *running], return_when=asyncio.FIRST_COMPLETED)
            if ending not in over:
                over.pop().result()  # raises: those others never end by themselves
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._publisher.finish()
            for task in running:
                task.cancel()

    def _part(self) -> None:
        """The link is over, however that came."""
        self.registry.part()
        self._publisher.forget()
        self._metrics_of_link.show(False, 0, self.registry.dropped)

    async def _enter(self, stack: AsyncExitStack) -> list[Coroutine[Any, Any, None]]:
        """Take part, until the stack ends; what is to run meanwhile."""
        settings, identity = self._settings, self.identity
        store = AsyncStatusStore.from_url(settings.url, **settings.options(identity.role), **identity.ranks)
        await stack.enter_async_context(store)
        lease = await stack.enter_async_context(_Lease(store, identity.owner, settings.lease))
        self._mirror = await stack.enter_async_context(store.mirror(rooms=self.registry.follows))
        self._publisher = OutboxPublisher(
            store, self.registry, identity.instance, lambda room: self._opened(store, room)
        )
        self._mirror.on_change(lambda room, status: self._heard(store, room, status))
        mirrors, tasks = [self._mirror], [self._tell(), self._keep(lease)]
        if identity.role == "decode":
            prefill = AsyncStatusStore.from_url(settings.url, **settings.options("prefill"))
            await stack.enter_async_context(prefill)
            mirrors.append(await stack.enter_async_context(prefill.mirror(rooms=self.registry.follows)))
            mirrors[1].on_change(lambda room, status: self._heard_of_prefill(prefill, room, status))
            tasks.append(_reap(prefill, settings.lease / 10))
        return [*tasks, self._watch(mirrors, lease)]

    async def _tell(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            self._publisher.see_to(self.registry.news())
            await asyncio.sleep(REST_SECONDS)

    async def _keep(self, lease: _Lease) -> None:
        """Who was taken for dead has failed all its rooms; it goes on with new ones under a new lease."""
        while True:
            await asyncio.sleep(lease.seconds / 10)
            if lease.is_lost:
                for room, number in self._publisher.forget():
                    self.registry.fail_from_table(
                        room, number, f"{self.identity.owner} was taken for dead", is_to_be_said=False
                    )
                with contextlib.suppress(KVPollError):
                    await lease.renew()  # what is opened before that would be nobody's
                    self._publisher.resume()
                    logger.warning(LEASE_LOST, self.identity.owner, lease.seconds)

    async def _watch(self, mirrors: list[AsyncMirror], lease: _Lease) -> None:
        """Say once that the server is away, and once that it is back."""
        away_since: float | None = None
        has_said = False
        while True:
            is_up, now = all(mirror.synced for mirror in mirrors), time.monotonic()
            self.registry.reason_seconds = REASON_SECONDS if is_up and self.identity.world_size > 1 else 0.0
            self.registry.away(not is_up)
            if is_up and not lease.is_lost:
                self._publisher.resume()
            if is_up:
                if has_said:
                    seconds = now - (away_since or now)
                    logger.info("redis_kvpoll: %s: Redis is back after %.1f s", self.identity.owner, seconds)
                away_since, has_said = None, False
            elif away_since is None:
                away_since = now
            elif not has_said and now - away_since > AWAY_SECONDS:
                has_said = True
                logger.warning(
                    "redis_kvpoll: %s: Redis is away; SGLang goes on with what it knows", self.identity.owner
                )
            self._metrics_of_link.show(not has_said, len(self.registry), self.registry.dropped)
            await asyncio.sleep(LOOK_SECONDS)

    # What others have done

    def _opened(self, store: AsyncStatusStore, room: int) -> None:
        """From now on the table knows this use of a room; it may have failed there before that."""
        if self._mirror is not None:
            self._heard(store, room, self._mirror.get(room))

    def _heard(self, store: AsyncStatusStore, room: int, status: KVPoll | None) -> None:
        """News of our own role's table: another rank, an operator, or whoever took this process for dead."""
        if status is KVPoll.Failed and dict.get(self.registry.statuses, room) not in (None, FAILED):
            self._ask(store, room, self._publisher.knows(room), is_to_be_said=False)

    def _heard_of_prefill(self, store: AsyncStatusStore, room: int, status: KVPoll | None) -> None:
        """The prefill side has failed what we wait for. What has been transferred needs it no more."""
        if status is KVPoll.Failed and dict.get(self.registry.statuses, room) not in (None, FAILED, SUCCESS):
            self._ask(store, room, self.registry.number_of(room), is_to_be_said=True)

    def _ask(self, store: AsyncStatusStore, room: int, number: int | None, is_to_be_said: bool) -> None:
        if number is not None:
            task = asyncio.create_task(self._fail(store, room, number, is_to_be_said))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _fail(self, store: AsyncStatusStore, room: int, number: int, is_to_be_said: bool) -> None:
        """Fail a use, with the reason that the table has."""
        reason = None
        with contextlib.suppress(KVPollError):
            reason = await store.failure_reason(room)
        text = OWNER.sub(r"\1 ", reason or ("failed on the prefill side" if is_to_be_said else ""))
        self.registry.fail_from_table(room, number, text, is_to_be_said)


class _Lease:
    """The lease of a process, which takes another when it was taken for dead."""

    def __init__(self, store: AsyncStatusStore, owner: str, seconds: float) -> None:
        self.seconds = seconds
        self._store = store
        self._owner = owner
        self._held: AsyncLease | None = None

    @property
    def is_lost(self) -> bool:
        return self._held is None or self._held.lost

    async def renew(self) -> None:
        if self._held is not None:
            await self._held.aclose()
            self._held = None
        lease = self._store.lease(self._owner, ttl=self.seconds)
        await lease.__aenter__()
        self._held = lease

    async def __aenter__(self) -> _Lease:
        await self.renew()
        return self

    async def __aexit__(self, *_: Any) -> None:
        if self._held is not None:
            with contextlib.suppress(KVPollError, TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._held.aclose()


async def _reap(store: AsyncStatusStore, seconds: float) -> None:
    """Fail what dead owners have left, also when no owner of that side is alive to do it."""
    while True:
        with contextlib.suppress(KVPollError):
            await store.reap()
        await asyncio.sleep(seconds)
