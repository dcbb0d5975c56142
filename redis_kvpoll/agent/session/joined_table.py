"""What one client has in its table, while its session has joined: a lease, a publisher, and followers.

Invariant: while the lease is lost, nothing is opened: it would have no owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack

from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.session.client_news import ClientNews
from redis_kvpoll.agent.session.lease import LEASE_LOST, LeaseClient, ReplaceableLease
from redis_kvpoll.agent.session.other_failures import OtherFailures
from redis_kvpoll.agent.session.own_failures import OwnFailures
from redis_kvpoll.agent.session.publisher import OutboxPublisher
from redis_kvpoll.agent.session.ranks import RankFollower
from redis_kvpoll.agent.session.shared_table import SharedFailures, SharedTable
from redis_kvpoll.agent.session.told import ToldRooms
from redis_kvpoll.aio.mirror import AsyncMirror
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.engine.leases.lease_state import LeaseState
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.replica.mirror_base import why_mirror_is_behind


class JoinedTable:
    """A client's lease, publisher and followers. ``send`` sends the client a message."""

    def __init__(
        self,
        hello: ClientHello,
        shared: SharedTable,
        client: LeaseClient,
        rooms: ToldRooms,
        news: ClientNews,
        send: Callable[[int, bytes], object],
    ) -> None:
        member = shared.member(hello)
        former = LeaseState(hello.former[0], tuple(map(tuple, hello.former[1]))) if hello.former else None
        self.lease = ReplaceableLease(member, hello.lease, client, former)
        self.publisher = OutboxPublisher(member, rooms, hello, self._room_opened, self._room_ended, news.log)
        self.publisher.on_found_failed = news.fail_as_found
        self.others: OtherFailures | None = None
        """None if the client does not hear of the other table's failures, or not yet."""
        self._hello = hello
        self._shared = shared
        self._rooms = rooms
        self._news = news
        self._send = send
        self._own = OwnFailures(member.store, shared.failures, rooms, self.publisher.life_of, news.fail)
        self._ranks: RankFollower | None = None
        self._followers: list[SharedFailures | AsyncMirror] = []

    @property
    def is_synced(self) -> bool:
        """Whether what it follows is current."""
        return all(follower.synced for follower in self._followers)

    @property
    def is_writable(self) -> bool:
        """Whether the lease is renewed, as far as is known. A server that only answers reads is as good as away."""
        return not self.lease.trouble

    @property
    def trouble(self) -> str:
        """Why what it follows is not current, or the lease not renewed, as far as that is known."""
        reasons = (
            why_mirror_is_behind(follower) if isinstance(follower, AsyncMirror) else follower.trouble
            for follower in self._followers
        )
        return next(filter(None, reasons), self.lease.trouble)

    async def join(self, stack: AsyncExitStack) -> None:
        """Take the lease, then follow what concerns the client's rooms, until the stack closes."""
        await stack.enter_async_context(self.lease)
        if self.lease.was_lost:
            self._log_lease_lost()
        hello, shared, rooms, followers = self._hello, self._shared, self._rooms, self._followers
        followers.append(await stack.enter_async_context(shared.failures.followed(rooms, self._own.on_failure)))
        if hello.collects:
            store = await stack.enter_async_context(AsyncStatusStore.from_url(hello.url, **hello.options))
            self._ranks = RankFollower(store, rooms, self.publisher.published_life, self._send)
            followers.append(await stack.enter_async_context(self._ranks.mirror))
        if shared.other is not None:
            self.others = OtherFailures(shared.other, rooms, self._send)
            followed = shared.other.failures.followed(rooms, self.others.on_failure)
            followers.append(await stack.enter_async_context(followed))
            shared.reap_others()

    async def replace_lost_leases(self, report: Callable[[], object]) -> None:
        """After each lost lease, fail the rooms that it owned, as in the table, and continue under a new one.

        ``report`` tells the client of the new one.
        """
        while True:
            await asyncio.sleep(self.lease.ttl / 10)
            if self.lease.is_lost:
                self.fail_lives()
                with contextlib.suppress(KVPollError):
                    await self.lease.replace()  # first: a room opened before that would have no owner
                    report()  # next: if this agent dies, the next one goes on with the lease of these rooms
                    self.publisher.resume()
                    self._log_lease_lost()

    def fail_lives(self) -> None:
        """Fail the client's open rooms, as the table has done: their lease is lost, or another client's."""
        for room, number in self.publisher.reset():
            self._news.fail(room, number, f"{self._hello.name} lost its lease", False)

    def forget(self, room: int) -> None:
        """Forget a room that is over."""
        if self._ranks is not None:
            self._ranks.forget(room)

    def _log_lease_lost(self) -> None:
        self._news.log(logging.WARNING, LEASE_LOST.format(self._hello.name, self.lease.ttl))

    def _room_opened(self, room: int, number: int, generation: int) -> None:
        self._news.opened(room, number, generation)
        self._own.room_opened(room)
        if self._ranks is not None:
            self._ranks.opened(room)

    def _room_ended(self, room: int, number: int) -> None:
        self._news.ended(room, number)
        self.forget(room)
