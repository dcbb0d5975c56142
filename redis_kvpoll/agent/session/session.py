"""The session of one client: it publishes what the client tells, renews its lease, and tells it of failures.

It knows the client by its messages alone, and runs in an event loop: of a thread, or of another process. Whatever
happens to Redis, it takes what the client tells, and keeps it, merged and bounded, until it is in the table.

To add a message: its kind in messages, and its handler in ``received``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack

from redis_kvpoll.agent import messages
from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.session.client_news import ClientNews
from redis_kvpoll.agent.session.lease import LEASE_LOST, SHUTDOWN_SECONDS, LeaseEnd, ReplaceableLease
from redis_kvpoll.agent.session.other_failures import OtherFailures
from redis_kvpoll.agent.session.outage import Outage
from redis_kvpoll.agent.session.own_failures import OwnFailures
from redis_kvpoll.agent.session.publisher import OutboxPublisher
from redis_kvpoll.agent.session.ranks import RankFollower
from redis_kvpoll.agent.session.refusals import refusal
from redis_kvpoll.agent.session.rounds import Rounds
from redis_kvpoll.agent.session.session_ending import SessionEnding, publish_rest
from redis_kvpoll.agent.session.shared_table import SharedFailures, SharedTable, SharedTables
from redis_kvpoll.agent.session.told import ToldRooms
from redis_kvpoll.agent.session_state import SessionState
from redis_kvpoll.aio.mirror import AsyncMirror
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.engine.leases.lease_state import LeaseState
from redis_kvpoll.errors import KVPollError

MONITOR_SECONDS = 0.25
"""Pause between checks whether the server is reachable, and reports to the client, each of which wakes it."""
REJOIN_SECONDS = 1.0
"""Pause before a client that has joined before tries it again."""

logger = logging.getLogger("redis_kvpoll")


class TableSession:
    """The session of one client.

    ``send`` sends it a message, and neither waits nor raises. ``silent_for`` gives the seconds since it was heard. It
    shares its tables with the other sessions of ``tables``.
    """

    def __init__(
        self,
        hello: ClientHello,
        send: Callable[[int, bytes], object],
        silent_for: Callable[[], float] = lambda: 0.0,
        tables: SharedTables | None = None,
    ) -> None:
        self.hello = hello
        self._news = ClientNews(send)
        self.rooms = ToldRooms(self._wake, self._news.deliver_reason, self._room_began)
        self.publisher: OutboxPublisher | None = None
        """None until it has joined the table."""
        self._send = send
        self._tables = tables or SharedTables()
        self._rounds: Rounds | None = None
        self._end = SessionEnding(silent_for, had_session=bool(hello.former))
        self._joining: asyncio.Task[ReplaceableLease] | None = None
        self._after: Collection[asyncio.Task[None]] = ()
        self._own: OwnFailures | None = None
        self._others: OtherFailures | None = None
        self._ranks: RankFollower | None = None
        self._followers: list[SharedFailures | AsyncMirror] = []
        self._lease: ReplaceableLease | None = None
        self._is_up = False
        self._outage = Outage(hello.name, self._news.log)
        self.rooms.outbox.on_dropped = self._room_ended

    # The client's side

    def received(self, kind: int, payload: bytes) -> None:
        """Take a message of the client's."""
        if kind == messages.CHANGE:
            self.rooms.change(*messages.decode_change(payload))
        elif kind == messages.HOLD:
            self.rooms.hold(*messages.decode_life(payload))
        elif kind == messages.WANT_REASON:
            room, _, is_wanted, _ = messages.decode_life(payload)
            self.rooms.want_reason(room, is_wanted and not self._end.has_begun.is_set())
        elif kind == messages.READ_FAILURE and self._others is not None:
            room, number, *_ = messages.decode_life(payload)
            self._others.read(room, number)
        elif kind == messages.LEAVE:
            self.end(LeaseEnd.LEAVE)

    def end(self, how: LeaseEnd, *, may_be_dead: bool = False) -> None:
        """Publish what is pending, and end. The first call decides how.

        One with ``may_be_dead`` is provisional, as only the client's connection has ended: the next call decides. If
        another session takes over, nothing more is sent: what is opened now might never be cleared.
        """
        self._end.tell(how, may_be_dead=may_be_dead)
        self.rooms.awaiting_reason.clear()  # no thread of the client waits any more
        if self._end.is_taken_over:
            if self._joining is not None:
                self._joining.cancel()
            if self.publisher is not None:
                self.publisher.stop()

    def give_up(self) -> None:
        """Wait for Redis no longer: the agent ends."""
        self._end.is_given_up.set()
        if self._joining is not None:
            self._joining.cancel()

    # Its run

    async def run(self, after: Collection[asyncio.Task[None]] = ()) -> None:
        """Join the table once former sessions have ended, and stay until the client leaves.

        A client that has joined before is not refused: it has rooms in the table, whose ends must be told.
        """
        self._after = after
        try:
            while self._end.has_to_join:
                try:
                    async with AsyncExitStack() as stack:
                        if (lease := await self._join(stack)) is None:
                            return
                        self._end.has_joined = True
                        await self._run_until_end(lease)
                except Exception as error:
                    if self._end.has_joined or not self.hello.former:
                        raise
                    await self._pause(error)
        except Exception as error:
            if self._end.has_joined:
                logger.exception("redis_kvpoll: %s left the status table because of a bug", self.hello.name)
                self._send(messages.BROKEN, messages.encode_words(traceback.format_exc()))
            else:
                self._send(messages.REFUSED, messages.encode_words(*refusal(error)))
        finally:
            self._send(messages.LEFT, b"")

    async def _join(self, stack: AsyncExitStack) -> ReplaceableLease | None:
        """Join the table until the stack closes; return the client's lease, or None if another one has taken over."""
        joining = self._joining = asyncio.create_task(self._enter(stack))
        try:
            async with asyncio.timeout(self.hello.join):
                await asyncio.wait([joining])
        finally:
            if joining.cancel():
                await asyncio.wait([joining])
        return None if joining.cancelled() else joining.result()

    async def _pause(self, error: Exception) -> None:
        """Wait a moment for a server that does not let the client join again."""
        news = self._end.is_given_up if self._end.has_begun.is_set() else self._end.has_begun
        self._outage.cannot_join(error)
        self._followers.clear()
        self._others = None
        self._report()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REJOIN_SECONDS):
                await news.wait()

    async def _run_until_end(self, lease: ReplaceableLease) -> None:
        self._is_up = self._are_synced()
        self._report()
        self._send(messages.JOINED, b"")
        running = [asyncio.create_task(task) for task in (self._replace_lost_lease(lease), self._monitor(lease))]
        ending = asyncio.create_task(self._finish())
        try:
            ended, _ = await asyncio.wait([ending, *running], return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()  # raises what has ended it
            self._report()
        finally:
            for task in (ending, *running):
                task.cancel()
            self._publisher.stop()  # first: what is opened without the lease would have no owner
        if self._end.awaits_death:
            await lease.abandon()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.hello.lease + SHUTDOWN_SECONDS):
                    await self._end.is_known.wait()

    async def _finish(self) -> None:
        """Return once the table has what it must have before the lease ends. The client need not wait for Redis."""
        await self._end.has_begun.wait()
        if self._end.how is not LeaseEnd.KEEP:
            await publish_rest(self._publisher, self._end, self._are_synced, lambda: self._send(messages.LEFT, b""))

    def _are_synced(self) -> bool:
        return all(follower.synced for follower in self._followers)

    @property
    def _publisher(self) -> OutboxPublisher:
        assert self.publisher is not None  # noqa: S101 - set when it joined
        return self.publisher

    async def _enter(self, stack: AsyncExitStack) -> ReplaceableLease:
        """Join the table until the stack closes; return the client's lease."""
        if self._after:
            await asyncio.wait(self._after)
        hello = self.hello
        table = await stack.enter_async_context(self._tables.table_of(hello))
        member = table.member(hello)
        former = LeaseState(hello.former[0], tuple(map(tuple, hello.former[1]))) if hello.former else None
        lease = self._lease = ReplaceableLease(member, hello.lease, self._end, former)
        await stack.enter_async_context(lease)
        if lease.was_lost:
            self._news.log(logging.WARNING, LEASE_LOST.format(hello.name, hello.lease))
        publisher = OutboxPublisher(member, self.rooms, hello, self._room_opened, self._room_ended, self._news.log)
        publisher.on_found_failed = self._news.fail_as_found
        own = self._own = OwnFailures(member.store, table.failures, self.rooms, publisher.life_of, self._news.fail)
        self.publisher = publisher
        await self._follow(stack, table, own)
        self._rounds = table.rounds
        self._wake()
        return lease

    async def _follow(self, stack: AsyncExitStack, table: SharedTable, own: OwnFailures) -> None:
        """Follow what concerns the client's rooms until the stack closes."""
        hello, followers, publisher = self.hello, self._followers, self._publisher
        followers.append(await stack.enter_async_context(table.failures.followed(self.rooms, own.on_failure)))
        if hello.collects:
            store = await stack.enter_async_context(AsyncStatusStore.from_url(hello.url, **hello.options))
            self._ranks = RankFollower(store, self.rooms, publisher.published_life, self._send)
            followers.append(await stack.enter_async_context(self._ranks.mirror))
        if table.other is not None:
            others = self._others = OtherFailures(table.other, self.rooms, self._send)
            followed = table.other.failures.followed(self.rooms, others.on_failure)
            followers.append(await stack.enter_async_context(followed))
            table.reap_others()

    def _publish(self) -> None:
        """Publish what has changed: a round has begun."""
        if self.publisher is not None:
            self.publisher.publish(self.rooms.outbox.take_changed())

    async def _replace_lost_lease(self, lease: ReplaceableLease) -> None:
        """After a lost lease, fail the rooms that it owned, as in the table, and continue under a new one."""
        name = self.hello.name
        while True:
            await asyncio.sleep(lease.ttl / 10)
            if lease.is_lost:
                for room, number in self._publisher.reset():
                    self._news.fail(room, number, f"{name} lost its lease", False)
                with contextlib.suppress(KVPollError):
                    await lease.replace()  # first: a room opened before that would have no owner
                    self._report()  # next: if this agent dies, the next one goes on with the lease of these rooms
                    self._publisher.resume()
                    self._news.log(logging.WARNING, LEASE_LOST.format(name, lease.ttl))

    async def _monitor(self, lease: ReplaceableLease) -> None:
        """Follow whether the server is reachable, and resume publishing when it is again."""
        while True:
            self._is_up = self._are_synced()
            if self._is_up and not lease.is_lost:
                self._publisher.resume()
            self._outage.note(self._is_up)
            if self._others is not None:
                self._others.tidy()
            self._report()
            await asyncio.sleep(MONITOR_SECONDS)

    # To the client

    def _report(self) -> None:
        """Tell the client what the table has now, if that is news."""
        pending = len(self.rooms.outbox)
        is_idle = not pending and self.publisher is not None and self.publisher.is_idle
        is_up, is_reachable = self._is_up, not self._outage.is_logged
        state = SessionState(self.rooms.received, is_idle, is_up, is_reachable, pending, self.rooms.outbox.dropped)
        self._news.send(state, self._lease.state if self._lease is not None else None)

    def _room_began(self, room: int, number: int, opened_at: float) -> None:
        """Look whether a room of the client's has failed in the other table since the client opened it."""
        if self._others is not None:
            self._others.room_began(room, number, opened_at)

    def _room_opened(self, room: int, number: int, generation: int) -> None:
        self._news.opened(room, number, generation)
        if self._own is not None:
            self._own.room_opened(room)
        if self._ranks is not None:
            self._ranks.opened(room)

    def _room_ended(self, room: int, number: int) -> None:
        self._news.ended(room, number)
        if self._ranks is not None:
            self._ranks.forget(room)

    def _wake(self) -> None:
        if self._rounds is not None:
            self._rounds.join(self._publish)
