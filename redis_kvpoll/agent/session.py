"""The table part of one client: it publishes what the client tells, renews its lease, and tells it of failures.

It knows the client by its messages alone, and runs in an event loop: of a thread, or of another process. Whatever
happens to Redis, it takes what the client tells, and keeps it, merged and bounded, until it is in the table.

To add a message: its kind in messages, and its handler in ``received``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any

from redis_kvpoll.agent import messages
from redis_kvpoll.agent.lease import SHUTDOWN_SECONDS, ReplaceableLease, reap
from redis_kvpoll.agent.messages import Hello
from redis_kvpoll.agent.other_failures import OtherFailures
from redis_kvpoll.agent.own_failures import OwnFailures
from redis_kvpoll.agent.publisher import OutboxPublisher
from redis_kvpoll.agent.ranks import RankStatuses
from redis_kvpoll.agent.refusals import refusal
from redis_kvpoll.agent.told import ToldRooms
from redis_kvpoll.aio.failures import AsyncFailures
from redis_kvpoll.aio.mirror import AsyncMirror
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.errors import KVPollError

COALESCE_SECONDS = 0.004
"""The pause after publishing: changes that arrive during it are sent together."""
MONITOR_SECONDS = 0.25
"""Pause between checks whether the server is reachable."""
REPORT_SECONDS = 0.1
"""Pause between reports to the client of what is in the table: each wakes it."""
OUTAGE_SECONDS = 1.0
"""The followers must be out of sync for this long before Redis counts as unreachable, and not just as slow."""

LEASE_LOST = (
    "{} lost its lease: no heartbeat for more than KVPOLL_LEASE ({:g} s), or another process uses the same name; its "
    "in-flight rooms were failed; continuing under a new lease"
)

logger = logging.getLogger("redis_kvpoll")


class TableSession:
    """The table part of one client. ``send`` sends it a message, and neither waits nor raises."""

    def __init__(self, hello: Hello, send: Callable[[int, bytes], object]) -> None:
        self.hello = hello
        self.rooms = ToldRooms(self._wake, self._deliver_reason, self._has_begun)
        self.publisher: OutboxPublisher | None = None
        """None until it has joined the table."""
        self._send = send
        self._has_changes = asyncio.Event()
        self._ending = asyncio.Event()
        self._others: OtherFailures | None = None
        self._of_others: AsyncFailures | None = None
        self._ranks: RankStatuses | None = None
        self._followers: list[AsyncFailures | AsyncMirror] = []
        self._opened: list[tuple[int, int, int]] = []
        self._ended: list[tuple[int, int, int]] = []
        self._state: list[Any] = []
        self._is_up = False
        self._is_reachable = True
        self.rooms.outbox.on_dropped = self._is_over

    # The client's side

    def received(self, kind: int, payload: bytes) -> None:
        """Take a message of the client's."""
        if kind == messages.CHANGE:
            self.rooms.change(*messages.decode_change(payload))
        elif kind == messages.HOLD:
            self.rooms.hold(*messages.decode_life(payload))
        elif kind == messages.WANT_REASON:
            room, _, is_wanted, _ = messages.decode_life(payload)
            self.rooms.want_reason(room, is_wanted)
        elif kind == messages.READ_FAILURE and self._others is not None:
            room, number, *_ = messages.decode_life(payload)
            self._others.read(room, number)
        elif kind == messages.LEAVE:
            self._ending.set()

    # Its run

    async def run(self) -> None:
        """Join the table, and stay until the client leaves."""
        has_joined = False
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self.hello.join):
                    tasks = await self._enter(stack)
                has_joined = True
                self._is_up = all(follower.synced for follower in self._followers)
                self._report()
                self._send(messages.JOINED, b"{}")
                await self._run_until_end(tasks)
        except Exception as error:
            if has_joined:
                logger.exception("redis_kvpoll: %s left the status table because of a bug", self.hello.name)
                self._send(messages.BROKEN, messages.encode_words(traceback.format_exc()))
            else:
                self._send(messages.REFUSED, messages.encode_words(*refusal(error)))
        finally:
            self._send(messages.LEFT, b"")

    async def _run_until_end(self, tasks: Sequence[Coroutine[Any, Any, None]]) -> None:
        running = [asyncio.create_task(task) for task in tasks]
        ending = asyncio.create_task(self._ending.wait())
        try:
            ended, _ = await asyncio.wait([ending, *running], return_when=asyncio.FIRST_COMPLETED)
            if ending not in ended:
                ended.pop().result()  # raises: the tasks end only by an exception
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SHUTDOWN_SECONDS):
                    await self._publisher.flush()
            self._report()
        finally:
            for task in (ending, *running):
                task.cancel()

    @property
    def _publisher(self) -> OutboxPublisher:
        assert self.publisher is not None  # noqa: S101 - set when it joined
        return self.publisher

    async def _enter(self, stack: AsyncExitStack) -> list[Coroutine[Any, Any, None]]:
        """Join the table until the stack closes; return the coroutines to run until then."""
        hello = self.hello
        store = await stack.enter_async_context(AsyncStatusStore.from_url(hello.url, **hello.options))
        lease = await stack.enter_async_context(ReplaceableLease(store, hello.owner, hello.lease))
        own_failures = store.failures(self.rooms.rooms)
        publisher = OutboxPublisher(store, self.rooms, hello, self._has_opened, self._is_over, self._log)
        own = OwnFailures(store, self.rooms, publisher.life_of, self._fail)
        own_failures.on_failure(own.on_failure)
        self._on_opened: Callable[[int], object] = lambda room: own.on_failure(own_failures.get(room))
        self.publisher = publisher
        followers = self._followers
        followers.append(await stack.enter_async_context(own_failures))
        if hello.collects:
            self._ranks = RankStatuses(store, self.rooms, publisher.published_life, self._send)
            followers.append(await stack.enter_async_context(self._ranks.mirror))
        tasks = [self._publish_changes(), self._replace_lost_lease(lease), self._report_changes()]
        if hello.other:
            others = AsyncStatusStore.from_url(hello.url, **{**hello.options, **_OTHER, "namespace": hello.other})
            await stack.enter_async_context(others)
            self._others = OtherFailures(others, self.rooms, self._send)
            self._of_others = of_others = others.failures(self.rooms.rooms)
            of_others.on_failure(self._others.on_failure)
            followers.append(await stack.enter_async_context(of_others))
            tasks.append(reap(others, hello.lease / 10))
        return [*tasks, self._monitor(lease)]

    async def _publish_changes(self) -> None:
        while True:
            await self._has_changes.wait()
            self._has_changes.clear()
            self._publisher.publish(self.rooms.take_changed())
            await asyncio.sleep(COALESCE_SECONDS)

    async def _replace_lost_lease(self, lease: ReplaceableLease) -> None:
        """After a lost lease, fail the rooms that it owned, as in the table, and continue under a new one."""
        name = self.hello.name
        while True:
            await asyncio.sleep(lease.ttl / 10)
            if lease.is_lost:
                for room, number in self._publisher.reset():
                    self._fail(room, number, f"{name} lost its lease", False)
                with contextlib.suppress(KVPollError):
                    await lease.replace()  # first: a room opened before that would have no owner
                    self._publisher.resume()
                    self._log(logging.WARNING, LEASE_LOST.format(name, lease.ttl))

    async def _monitor(self, lease: ReplaceableLease) -> None:
        """Log the beginning and the end of an outage once each, and resume publishing after it."""
        down_since: float | None = None
        name = self.hello.name
        while True:
            self._is_up, now = all(follower.synced for follower in self._followers), time.monotonic()
            if self._is_up and not lease.is_lost:
                self._publisher.resume()
            if self._is_up:
                if not self._is_reachable:
                    seconds = now - (down_since or now)
                    self._log(logging.INFO, f"{name}: Redis is reachable again after {seconds:.1f} s")
                down_since, self._is_reachable = None, True
            elif down_since is None:
                down_since = now
            elif self._is_reachable and now - down_since > OUTAGE_SECONDS:
                self._is_reachable = False
                self._log(logging.WARNING, f"{name}: Redis is unreachable; SGLang continues without it")
            if self._is_up and self._others is not None:
                self._others.tidy()
            await asyncio.sleep(MONITOR_SECONDS)

    # To the client

    async def _report_changes(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            self._report()

    def _report(self) -> None:
        """Tell the client what the table has now, if that is news."""
        if self._opened:
            opened, self._opened = self._opened, []
            self._send(messages.OPENED, messages.encode_lives(opened))
        if self._ended:
            ended, self._ended = self._ended, []
            self._send(messages.ENDED, messages.encode_lives(ended))
        pending = len(self.rooms.outbox)
        is_idle = not pending and self._publisher.is_idle
        state = [self.rooms.received, is_idle, self._is_up, self._is_reachable, pending, self.rooms.outbox.dropped]
        if state != self._state:
            self._state = state
            self._send(messages.STATE, messages.encode_words(*state))

    def _has_begun(self, room: int, opened_at: float) -> None:
        """Look whether a room of the client's has failed in the other table since the client opened it."""
        if self._others is not None and self._of_others is not None:
            failure = self._of_others.read_since(room, opened_at)
            if failure is not None:
                self._others.on_failure(failure)

    def _has_opened(self, room: int, number: int, generation: int) -> None:
        self._opened.append((room, number, generation))
        self._on_opened(room)
        if self._ranks is not None:
            self._ranks.opened(room)

    def _is_over(self, room: int, number: int) -> None:
        self._ended.append((room, number, 0))
        if self._ranks is not None:
            self._ranks.forget(room)

    def _fail(self, room: int, number: int, reason: str, by_hand: bool) -> None:
        self._send(messages.FAILED, messages.encode_words(room, number, reason, by_hand))

    def _deliver_reason(self, room: int, reason: str) -> None:
        self._send(messages.REASON, messages.encode_words(room, reason))

    def _log(self, level: int, text: str) -> None:
        self._send(messages.LOG, messages.encode_words(level, f"redis_kvpoll: {text}"))

    def _wake(self) -> None:
        self._has_changes.set()


_OTHER = {"rank": None, "world_size": None}
"""Nobody writes the other table by this store, so it has no rank."""
