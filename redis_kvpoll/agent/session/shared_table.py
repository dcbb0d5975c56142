"""The tables of one instance, as its clients share them: connections, followers, and the moments of publishing.

Invariant: a table is there as long as one of its clients. What a client opens, writes and holds is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.session.known_owners import KnownOwners
from redis_kvpoll.agent.session.lease import reap
from redis_kvpoll.agent.session.rounds import Rounds
from redis_kvpoll.agent.session.table_member import GroupMember, StoreMember, TableMember
from redis_kvpoll.agent.session.told import ToldRooms
from redis_kvpoll.aio.callers import result_of
from redis_kvpoll.aio.failures import AsyncFailures
from redis_kvpoll.aio.rank_group import AsyncRankGroup
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.model import RoomFailure
from redis_kvpoll.replica.failures_base import is_complete_since, read_since, why_failures_are_behind
from redis_kvpoll.validation import MAX_ROOM

OnFailure = Callable[[RoomFailure], object]
_NO_RANK = {"rank": None, "world_size": None}


class SharedFailures:
    """The failures of the rooms of several clients, which one follower reads."""

    def __init__(self, store: AsyncStatusStore) -> None:
        self._store = store
        self._clients: dict[ToldRooms, OnFailure] = {}
        self._follower: AsyncFailures | None = None
        self._entering: asyncio.Task[AsyncFailures] | None = None

    @property
    def synced(self) -> bool:
        """Whether the failures of all rooms are current."""
        return self._follower is not None and self._follower.synced

    @property
    def trouble(self) -> str:
        """Why they are not, as far as that is known and was not logged."""
        return "" if self._follower is None else why_failures_are_behind(self._follower)

    def get(self, room: int) -> RoomFailure | None:
        """Return the latest failure that is known of a client's room."""
        return None if self._follower is None else self._follower.get(room)

    def since(self, room: int, moment: float) -> RoomFailure | None:
        """Return the latest failure of a room, if it was read since a moment of ``time.monotonic``, not long ago."""
        return None if self._follower is None else read_since(self._follower, room, moment)

    def is_complete_since(self, moment: float) -> bool:
        """Whether ``since`` knows each failure since a moment; otherwise only reading a room tells."""
        return self._follower is not None and is_complete_since(self._follower, moment)

    @contextlib.asynccontextmanager
    async def followed(self, rooms: ToldRooms, on_failure: OnFailure) -> AsyncIterator[SharedFailures]:
        """Tell a client the failures of its rooms that are read from now on."""
        self._clients[rooms] = on_failure
        try:
            if self._entering is None or (self._entering.done() and self._follower is None):
                self._entering = asyncio.create_task(self._enter())
            await result_of(self._entering)
            yield self
        finally:
            del self._clients[rooms]

    async def aclose(self) -> None:
        """Stop following."""
        if self._entering is not None:
            self._entering.cancel()
            await asyncio.wait([self._entering])
        follower, self._follower = self._follower, None
        if follower is not None:
            await follower.aclose()

    async def _enter(self) -> AsyncFailures:
        follower = self._store.failures(self._rooms)
        follower.on_failure(self._tell)
        self._follower = await follower.__aenter__()
        return follower

    def _rooms(self) -> list[int]:
        """Return the clients' rooms, without those that no table can have: a follower refuses them, and all others."""
        return [room for rooms in self._clients for room in rooms.rooms() if 0 <= room <= MAX_ROOM]

    def _tell(self, failure: RoomFailure) -> None:
        for on_failure in list(self._clients.values()):
            on_failure(failure)


class OtherTable:
    """The other role's table, whose failures the clients of one instance hear."""

    def __init__(self, store: AsyncStatusStore) -> None:
        self.store = store
        self.failures = SharedFailures(store)
        self.owners = KnownOwners(store)

    async def aclose(self) -> None:
        """Close all connections."""
        await self.failures.aclose()
        await self.store.aclose()


class SharedTable:
    """The tables of one instance: its own, which its clients write, and the other role's, whose failures they hear."""

    def __init__(self, hello: ClientHello) -> None:
        self.clients = 0
        options = hello.options if hello.rank is None else {**hello.options, **_NO_RANK}
        self._store = AsyncStatusStore.from_url(hello.url, **options)
        self._group = None if hello.rank is None else AsyncRankGroup(self._store)
        self.rounds = Rounds(self._group)
        self.failures = SharedFailures(self._store)
        self.other: OtherTable | None = None
        """None if its failures are not heard."""
        self._lease = hello.lease
        self._reaping: asyncio.Task[None] | None = None
        if hello.other:
            options = {**hello.options, **_NO_RANK, "namespace": hello.other}
            self.other = OtherTable(AsyncStatusStore.from_url(hello.url, **options))

    def member(self, hello: ClientHello) -> TableMember:
        """Return how a client takes part in its table."""
        if self._group is None or hello.rank is None:
            return StoreMember(self._store, hello)
        return GroupMember(self._store, self._group, self.rounds, hello.rank, hello)

    def reap_others(self) -> None:
        """Fail the rooms of lost owners of the other table from now on."""
        if self._reaping is None and self.other is not None:
            self._reaping = asyncio.create_task(reap(self.other.store, self._lease / 10))

    async def aclose(self) -> None:
        """Close all connections."""
        if self._reaping is not None:
            self._reaping.cancel()
            await asyncio.wait([self._reaping])
        await self.failures.aclose()
        if self._group is not None:
            await self._group.aclose()
        await self._store.aclose()
        if self.other is not None:
            await self.other.aclose()


class SharedTables:
    """The tables of all instances that an agent speaks for."""

    def __init__(self) -> None:
        self._tables: dict[str, SharedTable] = {}

    @contextlib.asynccontextmanager
    async def table_of(self, hello: ClientHello) -> AsyncIterator[SharedTable]:
        """A client's tables, which it shares with all that differ from it in rank alone."""
        key = _key(hello)
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = SharedTable(hello)
        table.clients += 1
        try:
            yield table
        finally:
            table.clients -= 1
            if not table.clients:
                del self._tables[key]
                await table.aclose()


def _key(hello: ClientHello) -> str:
    """Return what clients that share tables have in common."""
    options = {name: value for name, value in hello.options.items() if name != "rank"}
    alone = hello.owner if hello.rank is None else ""
    words: list[Any] = [hello.url, options, hello.instance, hello.lease, hello.other, alone]
    return json.dumps(words, sort_keys=True)
