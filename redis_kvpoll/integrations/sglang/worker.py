"""The thread that joins one process of SGLang to the table: an event loop, and everything that runs in it.

It publishes the registry's changes, renews the lease and follows the other processes' changes. Whatever happens to it
or to Redis, SGLang's threads continue with the registry.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from typing import Any

from redis_kvpoll.aio.failures import AsyncFailures
from redis_kvpoll.aio.mirror import AsyncMirror
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.errors import KVPollError, StoreClosedError
from redis_kvpoll.integrations.sglang.compat import ProcessIdentity
from redis_kvpoll.integrations.sglang.lease import SHUTDOWN_SECONDS, ReplaceableLease, reap
from redis_kvpoll.integrations.sglang.metrics import LinkMetrics
from redis_kvpoll.integrations.sglang.own_failures import OwnFailures
from redis_kvpoll.integrations.sglang.peer_failures import PeerFailures
from redis_kvpoll.integrations.sglang.peers import Address, servers_of
from redis_kvpoll.integrations.sglang.publisher import OutboxPublisher
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from redis_kvpoll.integrations.sglang.settings import PluginSettings
from redis_kvpoll.model import KVPoll

COALESCE_SECONDS = 0.004
"""The pause after publishing: changes that arrive during it are sent together, and wake no thread."""
MONITOR_SECONDS = 0.25
"""Pause between checks whether the server is reachable."""
OUTAGE_SECONDS = 1.0
"""The followers must be out of sync for this long before Redis counts as unreachable, and not just as slow."""
REASON_WAIT_SECONDS = 0.25
"""The longest that SGLang's thread waits for another rank's reason, at the end of a request that failed without one
here. Such a reason arrives within milliseconds, or there is none."""

MAX_LISTED = 10
"""The most rooms that one log line lists."""

LEASE_LOST = (
    "redis_kvpoll: %s lost its lease: no heartbeat for more than KVPOLL_LEASE (%g s), or another process uses the same "
    "name; its in-flight rooms were failed; continuing under a new lease"
)

logger = logging.getLogger("redis_kvpoll")


class TableWorker:
    """The registry of one process, and the thread that keeps it and the table in sync."""

    def __init__(self, settings: PluginSettings, identity: ProcessIdentity) -> None:
        self.identity = identity
        self.registry = RoomRegistry(self._wake)
        self.receivers_of: Callable[[int], frozenset[Address] | None] = lambda _: None
        """Prefill: who has asked for a room's pages."""
        self.end_orphans: Callable[[], list[int]] = list
        """Prefill: ends rooms that have had no sender for too long, and returns them."""
        self.fail: Callable[[int, int, str, bool], object] = self.registry.fail_from_table
        """Fails a life as the table says: room, life, reason, and whether it failed in the other role's table."""
        self.end_by_hand: Callable[[int, int, str], object] | None = None
        """Decode: ends a life that an operator has aborted in its table."""
        self.settings = settings
        self._metrics = LinkMetrics(identity.role, identity.name)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_changes = asyncio.Event()
        self._closing = asyncio.Event()
        self._joined: Future[None] = Future()
        self._mirror: AsyncMirror | None = None
        """Of a pipeline."""
        self._peer_failures: PeerFailures | None = None
        self._servers: dict[int, tuple[int, frozenset[Address]]] = {}
        """By room of decode's: its life, and the processes of prefill that serve it."""
        self._servers_lock = threading.RLock()
        self._ended_orphans = 0
        self._thread = threading.Thread(target=self._run, name=f"kvpoll-{identity.name}", daemon=True)

    # Called by SGLang's threads

    def join(self) -> None:
        """Start the thread and return once it has joined the table; raise what prevents that."""
        self._thread.start()
        try:
            self._joined.result()
        except BaseException:
            self._thread.join(SHUTDOWN_SECONDS)
            raise
        atexit.register(self.close)

    def close(self) -> None:
        """Publish what is pending and end the thread. Further calls do nothing."""
        atexit.unregister(self.close)
        if self._loop is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(3 * SHUTDOWN_SECONDS)

    @property
    def is_idle(self) -> bool:
        """Whether every change is in the table."""
        return not len(self.registry) and self._publisher.is_idle

    def statuses_of(self, room: int) -> dict[int, KVPoll]:
        """Return the table's statuses of a room by rank, from the local copy; empty until it knows the current life."""
        if self._mirror is None or self._publisher.published_life(room) is None:
            return {}
        try:
            return self._mirror.collect(room)
        except StoreClosedError:  # it was closed just now
            return {}

    def learn_servers(self, room: int, bootstrap_infos: Iterable[Any]) -> None:
        """Take note of the processes of prefill that serve a room of decode's."""
        if (number := self.registry.current_life(room)) is not None:
            with self._servers_lock:
                self._servers[room] = number, servers_of(bootstrap_infos)
            if self._peer_failures is not None:
                self._call_soon(self._peer_failures.check, room)

    def _peers_of(self, room: int) -> frozenset[Address] | None:
        """Return the addresses of the other role's processes that serve a room; None if they are not known."""
        return self._servers_of(room) if self.identity.role == "decode" else self.receivers_of(room)

    def _servers_of(self, room: int) -> frozenset[Address] | None:
        number, servers = self._servers.get(room, (None, None))
        return servers if number is not None and number == self.registry.current_life(room) else None

    def _forget_servers(self) -> None:
        """Forget who served rooms that are over."""
        with self._servers_lock:
            for room in [room for room in list(self._servers) if self._servers_of(room) is None]:
                self._servers.pop(room, None)

    def _wake(self) -> None:
        self._call_soon(self._has_changes.set)

    def _call_soon(self, call: Callable[..., object], *arguments: Any) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(call, *arguments)

    # The thread

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            if not self._joined.done():
                self._joined.set_exception(error)
            elif self._joined.exception() is None:
                logger.exception(
                    "redis_kvpoll: %s left the status table because of a bug, and SGLang continues without it; "
                    "report this traceback",
                    self.identity.name,
                )

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self.settings.join):
                    tasks = await self._enter(stack)
                    stack.callback(self._detach)
            except BaseException as error:
                self._joined.set_exception(error)  # before the stack closes, which takes time
                raise
            self._joined.set_result(None)
            running = [asyncio.create_task(task) for task in tasks]
            closing = asyncio.create_task(self._closing.wait())
            ended, _ = await asyncio.wait([closing, *running], return_when=asyncio.FIRST_COMPLETED)
            if closing not in ended:
                ended.pop().result()  # raises: the tasks end only by an exception
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SHUTDOWN_SECONDS):
                    await self._publisher.flush()
            for task in running:
                task.cancel()

    def _detach(self) -> None:
        self.registry.detach()
        self._publisher.reset()
        self._metrics.update(False, 0, self.registry.dropped, self._ended_orphans)

    async def _enter(self, stack: AsyncExitStack) -> list[Coroutine[Any, Any, None]]:
        """Join the table until the stack closes; return the coroutines to run until then."""
        settings, identity = self.settings, self.identity
        store = AsyncStatusStore.from_url(settings.url, **settings.options(identity.role), **identity.rank_options)
        await stack.enter_async_context(store)
        lease = await stack.enter_async_context(ReplaceableLease(store, identity.owner, settings.lease))
        own_failures = store.failures(self._held_rooms)
        self._publisher = OutboxPublisher(
            store, self.registry, identity, lambda room: own.on_failure(own_failures.get(room))
        )
        own = OwnFailures(store, self.registry, self._publisher.life_of, self._fail_own)
        own_failures.on_failure(own.on_failure)
        followers: list[AsyncFailures | AsyncMirror] = [await stack.enter_async_context(own_failures)]
        if len(identity.stages) > 1:  # a pipeline, whose stages collect each other's statuses
            self._mirror = await stack.enter_async_context(store.mirror(rooms=self.registry.is_relevant))
            followers.append(self._mirror)
        role = "prefill" if identity.role == "decode" else "decode"
        peers = AsyncStatusStore.from_url(settings.url, **settings.options(role))
        await stack.enter_async_context(peers)
        self._peer_failures = PeerFailures(peers, role, self.registry, self._peers_of, self._fail_for_peers)
        of_peers = peers.failures(self._held_rooms)
        of_peers.on_failure(self._peer_failures.on_failure)
        followers.append(await stack.enter_async_context(of_peers))
        tasks = [self._publish_changes(), self._replace_lost_lease(lease)]
        tasks.append(reap(peers, settings.lease / 10))
        return [*tasks, self._monitor(followers, lease)]

    async def _publish_changes(self) -> None:
        while True:
            await self._has_changes.wait()
            self._has_changes.clear()
            self._publisher.publish(self.registry.take_changed())
            await asyncio.sleep(COALESCE_SECONDS)

    async def _replace_lost_lease(self, lease: ReplaceableLease) -> None:
        """After a lost lease, fail the rooms that it owned, as in the table, and continue under a new one."""
        while True:
            await asyncio.sleep(lease.ttl / 10)
            if lease.is_lost:
                for room, number in self._publisher.reset():
                    self.fail(room, number, f"{self.identity.name} lost its lease", False)
                with contextlib.suppress(KVPollError):
                    await lease.replace()  # first: a room opened before that would have no owner
                    self._publisher.resume()
                    logger.warning(LEASE_LOST, self.identity.name, lease.ttl)

    async def _monitor(self, followers: Sequence[AsyncFailures | AsyncMirror], lease: ReplaceableLease) -> None:
        """Log the beginning and the end of an outage once each, resume publishing after it, and update the metrics."""
        down_since: float | None = None
        is_logged = False
        owner = self.identity.name
        while True:
            is_up, now = all(follower.synced for follower in followers), time.monotonic()
            has_peers = is_up and self.identity.world_size > 1
            self.registry.reason_wait_seconds = REASON_WAIT_SECONDS if has_peers else 0.0
            if is_up and not lease.is_lost:
                self._publisher.resume()
            if is_up:
                if is_logged:
                    seconds = now - (down_since or now)
                    logger.info("redis_kvpoll: %s: Redis is reachable again after %.1f s", owner, seconds)
                down_since, is_logged = None, False
            elif down_since is None:
                down_since = now
            elif not is_logged and now - down_since > OUTAGE_SECONDS:
                is_logged = True
                logger.warning("redis_kvpoll: %s: Redis is unreachable; SGLang continues without it", owner)
            if is_up and self._peer_failures is not None:
                self._peer_failures.check_all()
            self._forget_servers()
            self._end_orphans()
            self._metrics.update(not is_logged, len(self.registry), self.registry.dropped, self._ended_orphans)
            await asyncio.sleep(MONITOR_SECONDS)

    # Other processes' changes

    def _held_rooms(self) -> list[int]:
        return list(self.registry.statuses)  # takes no lock

    def _fail_own(self, room: int, number: int, reason: str, by_hand: bool) -> None:
        if by_hand and self.end_by_hand is not None:
            self.end_by_hand(room, number, reason)
        else:
            self.fail(room, number, reason, False)

    def _fail_for_peers(self, room: int, number: int, reason: str) -> None:
        self.fail(room, number, reason, True)

    def _end_orphans(self) -> None:
        if ended := self.end_orphans():
            self._ended_orphans += len(ended)
            logger.info(
                "redis_kvpoll: %s: ended %d rooms that decode has asked for and that had no sender: %s",
                self.identity.name,
                len(ended),
                ", ".join(map(str, ended[:MAX_LISTED])),
            )
