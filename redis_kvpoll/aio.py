"""AsyncStatusStore: the table for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast
from weakref import WeakSet

import redis.asyncio as redis

from redis_kvpoll import checks, commands
from redis_kvpoll.aiodispatch import Dispatcher
from redis_kvpoll.aioroom import AsyncRoom
from redis_kvpoll.aiotable import AsyncTable
from redis_kvpoll.checks import Mode, Policy
from redis_kvpoll.clients import aioopening
from redis_kvpoll.commands import Agreement, Change, Command, FeedGap, History, Settings, Tail, handles
from redis_kvpoll.commands.leases import Terms
from redis_kvpoll.commands.replies import Opened
from redis_kvpoll.commands.rooms import wanted
from redis_kvpoll.delivery import Delivery
from redis_kvpoll.handle import Handle
from redis_kvpoll.leases import reaping
from redis_kvpoll.leases.aio import AsyncLease
from redis_kvpoll.mirror.aio import AsyncMirror, AsyncWaits
from redis_kvpoll.standing import DEFAULT_DEADLINE, DEFAULT_TERMINAL_TTL, DEFAULT_TTL, StoreOptions
from redis_kvpoll.status import KVPoll, Owner
from redis_kvpoll.store import StatusStore
from redis_kvpoll.twins import share_docstrings

T = TypeVar("T")
V = TypeVar("V")


class AsyncStatusStore(AsyncTable):
    """StatusStore for asyncio: every method is its twin's, awaited; arguments, results and errors are the same.

    ``client`` is a ``redis.asyncio.Redis`` or ``redis.asyncio.RedisCluster``. Calls made in the
    same turn of the event loop travel together. A store serves one event loop at a time and is an async context manager
    (``aclose``). A call that is cancelled may have reached the server; those that travel with it go on.
    """

    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        *,
        namespace: str = "default",
        ttl: float = DEFAULT_TTL,
        terminal_ttl: float = DEFAULT_TERMINAL_TTL,
        deadline: float = DEFAULT_DEADLINE,
        policy: Policy | None = None,
        mode: Mode | None = None,
        shards: int | None = None,
        feed: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self._delivery = Delivery(
            Agreement.checked(namespace, policy, shards, mode, feed),
            ttl=checks.seconds(ttl, "ttl"),
            terminal_ttl=checks.seconds(terminal_ttl, "terminal_ttl"),
            deadline=checks.seconds(deadline, "deadline"),
            ranks=checks.ranks(rank, world_size),
        )
        self._route = aioopening.route_for(client, deadline)
        self._dispatcher = Dispatcher(self._delivery, self._route)
        self._mirrors: WeakSet[AsyncMirror] = WeakSet()
        self._leases: WeakSet[AsyncLease] = WeakSet()
        self._waits = AsyncWaits(self._dispatcher)

    @classmethod
    def from_url(cls, url: str, **options: Unpack[StoreOptions]) -> Self:
        # No connection is made yet, so a failing constructor leaves only an embedded server, which ends by itself.
        route = aioopening.open_route(url, checks.seconds(options.get("deadline", DEFAULT_DEADLINE), "deadline"))
        return cls(cast(redis.Redis, route), **options)  # see route_for

    def rooms(self, status: KVPoll | int | None = None) -> AsyncIterator[int]:
        return self._rooms(wanted(status))

    async def counts(self) -> dict[KVPoll, int]:
        counts = dict.fromkeys(KVPoll, 0)
        async for page in self._dispatcher.pages():
            for status in await self._run(commands.survey(page)):
                if status is not None:
                    counts[status] += 1
        return counts

    async def history(self, room: int) -> list[Change]:
        history = History(room)
        while await self._dispatcher.run(self._delivery.read_on("history", history)):
            pass
        return history.changes()

    def tail(self, last: int = 0) -> AsyncIterator[Change | FeedGap]:
        return self._dispatcher.news(Tail(last))

    async def settings(self) -> Settings | None:
        return await self._dispatcher.run(self._delivery.settings())

    async def open(
        self, room: int, request: str | None = None, status: KVPoll | int = KVPoll.Bootstrapping
    ) -> AsyncRoom:
        return await self._room(handles.open(room, request, status, self._delivery.held.seen))

    async def attach(self, room: int | Handle[Any]) -> AsyncRoom:
        if isinstance(room, Handle):
            return AsyncRoom(self._dispatcher, *self._delivery.adopted(room))
        return await self._room(handles.attach(room))

    def lease(self, name: str, ttl: float = 5.0, heartbeat: float | None = None) -> AsyncLease:
        self._delivery.check_open("lease")
        lease = AsyncLease(self._dispatcher, Terms.checked(name, ttl, heartbeat))
        self._leases.add(lease)
        return lease

    async def reap(self) -> int:
        return await self._dispatcher.run(reaping.reap(self._delivery))

    async def owners(self) -> list[Owner]:
        return await self._dispatcher.run(reaping.owners(self._delivery))

    def mirror(self, *, rooms: Callable[[int], bool] | None = None) -> AsyncMirror:
        self._delivery.check_open("mirror")
        mirror = AsyncMirror(self._dispatcher, rooms)
        self._mirrors.add(mirror)
        return mirror

    async def wait(self, room: int, *statuses: KVPoll | int, timeout: float | None = None) -> KVPoll:  # noqa: ASYNC109
        self._delivery.check_open("wait")
        return await self._waits.wait(lambda: self._run(commands.wait(room)), room, statuses, timeout)

    async def aclose(self) -> None:
        """Close the store's connections, mirrors and leases; with from_url, all that it opened. May be repeated."""
        self._delivery.closed = True
        for lease in list(self._leases):
            await lease.aclose()
        for mirror in list(self._mirrors):
            await mirror.aclose()
        await self._waits.close()
        await self._route.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} namespace={self._delivery.namespace!r} on {self._route}>"

    async def _room(self, command: Command[Any, Opened]) -> AsyncRoom:
        found = await self._run(command)
        return AsyncRoom(self._dispatcher, self._delivery.namespace, command.rooms[0], found.generation, found.request)

    async def _rooms(self, only: KVPoll | None) -> AsyncIterator[int]:
        async for page in self._dispatcher.pages():
            if only is not None:
                statuses = await self._run(commands.survey(page))
                page = [room for room, status in zip(page, statuses, strict=True) if status is only]
            for room in page:
                yield room

    def _run(self, command: Command[V, T]) -> Awaitable[T]:
        return self._dispatcher.execute(command)


share_docstrings(AsyncStatusStore, StatusStore)
