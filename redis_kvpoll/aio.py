"""AsyncStatusStore: the table for asyncio."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import NoReturn, Self, TypeVar, Unpack, cast, overload
from weakref import WeakSet

import redis.asyncio as redis

from redis_kvpoll import checks, commands
from redis_kvpoll.aiodispatch import Dispatcher
from redis_kvpoll.checks import Mode, Policy
from redis_kvpoll.clients import aioopening
from redis_kvpoll.commands import Agreement, Change, Command, FeedGap, History, Settings, Tail
from redis_kvpoll.commands.rooms import DEFAULT_ABORT_REASON, wanted
from redis_kvpoll.delivery import Delivery
from redis_kvpoll.mirror.aio import AsyncMirror, AsyncWaits
from redis_kvpoll.standing import DEFAULT_DEADLINE, DEFAULT_TERMINAL_TTL, DEFAULT_TTL, StoreOptions
from redis_kvpoll.status import Entry, KVPoll, Update
from redis_kvpoll.store import StatusStore

T = TypeVar("T")
V = TypeVar("V")
D = TypeVar("D")


class AsyncStatusStore:
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
        self._waits = AsyncWaits(self._dispatcher)

    @classmethod
    def from_url(cls, url: str, **options: Unpack[StoreOptions]) -> Self:
        # No connection is made yet, so a failing constructor leaves only an embedded server, which ends by itself.
        route = aioopening.open_route(url, checks.seconds(options.get("deadline", DEFAULT_DEADLINE), "deadline"))
        return cls(cast(redis.Redis, route), **options)  # see route_for

    async def update_status(self, room: int, status: KVPoll | int) -> Update:
        return await self._run(commands.update_status(room, status))

    async def update_many(self, statuses: Mapping[int, KVPoll | int]) -> dict[int, Update]:
        return await self._run(commands.update_many(statuses))

    async def abort(self, room: int, reason: str = DEFAULT_ABORT_REASON) -> Update:
        return await self._run(commands.abort(room, reason))

    async def record_failure(self, room: int, reason: str) -> bool:
        return await self._run(commands.record_failure(room, reason))

    async def touch(self, rooms: Iterable[int]) -> int:
        return await self._run(commands.touch(rooms))

    async def set_decode_prefix_len(self, room: int, length: int) -> None:
        return await self._run(commands.set_decode_prefix_len(room, length))

    async def clear(self, room: int) -> KVPoll | None:
        return await self._run(commands.clear(room))

    async def clear_many(self, rooms: Iterable[int]) -> dict[int, KVPoll | None]:
        return await self._run(commands.clear_many(rooms))

    async def pop_decode_prefix_len(self, room: int) -> int:
        return await self._run(commands.pop_decode_prefix_len(room))

    async def failure_exception(self, room: int) -> NoReturn:
        raise await self._run(commands.failure_exception(room))

    async def check_status(self, room: int) -> KVPoll:
        return await self._run(commands.check_status(room))

    @overload
    async def get(self, room: int) -> KVPoll | None: ...
    @overload
    async def get(self, room: int, default: D) -> KVPoll | D: ...
    async def get(self, room: int, default: object = None) -> object:
        return await self._run(commands.get(room, default))

    async def poll(self, rooms: Iterable[int]) -> list[KVPoll | None]:
        return await self._run(commands.poll(rooms))

    async def failure_reason(self, room: int) -> str | None:
        return await self._run(commands.failure_reason(room))

    async def entry(self, room: int) -> Entry | None:
        return await self._run(commands.entry(room))

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

    def mirror(self, *, rooms: Callable[[int], bool] | None = None) -> AsyncMirror:
        self._delivery.check_open("mirror")
        mirror = AsyncMirror(self._dispatcher, rooms)
        self._mirrors.add(mirror)
        return mirror

    async def wait(self, room: int, *statuses: KVPoll | int, timeout: float | None = None) -> KVPoll:  # noqa: ASYNC109
        self._delivery.check_open("wait")
        return await self._waits.wait(lambda: self._run(commands.wait(room)), room, statuses, timeout)

    async def aclose(self) -> None:
        """Close the store's connections and mirrors; with from_url, all that it opened. May be repeated."""
        self._delivery.closed = True
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

    async def _rooms(self, only: KVPoll | None) -> AsyncIterator[int]:
        async for page in self._dispatcher.pages():
            statuses: list[KVPoll | None] = [None] * len(page)
            if only is not None:
                statuses = await self._run(commands.survey(page))
            for room, status in zip(page, statuses, strict=True):
                if status is only:
                    yield room

    def _run(self, command: Command[V, T]) -> Awaitable[T]:
        return self._dispatcher.execute(command)


def _share_docstrings() -> None:
    """One text for both worlds: a method without one here is documented by its blocking twin."""
    for name, twin in inspect.getmembers(StatusStore, callable):
        here = vars(AsyncStatusStore).get(name)
        here = here.__func__ if isinstance(here, classmethod) else here
        if here is not None and here.__doc__ is None:
            here.__doc__ = twin.__doc__


_share_docstrings()
