"""The store: the table of one namespace, with its handles, leases, mirrors and waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast
from weakref import WeakSet

import redis.asyncio as redis

from redis_kvpoll import validation
from redis_kvpoll.aio import connect
from redis_kvpoll.aio.dispatcher import AsyncDispatcher
from redis_kvpoll.aio.failures import AsyncFailures
from redis_kvpoll.aio.lease import AsyncLease
from redis_kvpoll.aio.listing import AsyncListing
from redis_kvpoll.aio.mirror import AsyncMirror
from redis_kvpoll.aio.room import AsyncRoom
from redis_kvpoll.aio.single_calls import AsyncSingleCalls
from redis_kvpoll.aio.statistics import AsyncStatistics
from redis_kvpoll.aio.table import AsyncTable
from redis_kvpoll.aio.waits import AsyncWaitRegistry
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.leases import reaper
from redis_kvpoll.engine.reads import read_settings
from redis_kvpoll.engine.session import Session
from redis_kvpoll.engine.store_base import StoreBase
from redis_kvpoll.engine.store_options import DEFAULT_DEADLINE, DEFAULT_TERMINAL_TTL, DEFAULT_TTL, StoreOptions
from redis_kvpoll.model import KVPoll, Owner
from redis_kvpoll.protocol import fenced_commands, room_commands
from redis_kvpoll.protocol.handle import Handle
from redis_kvpoll.protocol.lease_commands import LeaseConfig
from redis_kvpoll.protocol.replies import OpenedRoom
from redis_kvpoll.protocol.script_call import Command
from redis_kvpoll.protocol.settings import Settings
from redis_kvpoll.validation import Mode, Policy

T = TypeVar("T")
V = TypeVar("V")


class AsyncStatusStore(StoreBase, AsyncTable, AsyncListing):
    """StatusStore for asyncio, with the same methods, awaited, and the same arguments, results and errors.

    ``client`` is a ``redis.asyncio.Redis`` or ``redis.asyncio.RedisCluster``. Calls made in the same turn of the event
    loop share a batch. A store serves one event loop at a time and is an async context manager (``aclose``). A call
    that is cancelled may have reached the server; the others of its batch go on.

    After ``fork`` the child must not touch the parent's event loop, which it shares: when it ends that loop's
    connections (by collecting or closing them), calls of the parent wait for replies that have come, until their
    timeout. Use ``multiprocessing`` with spawn or forkserver, or end such a child with ``os._exit`` or ``exec``.
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
        feed_length: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        read_only: bool = False,
    ) -> None:
        settings, times = (policy, shards, mode, feed_length, read_only), (ttl, terminal_ttl, deadline)
        self._executor = Executor(Session.checked(namespace, times, settings, (rank, world_size)))
        self._transport = connect.transport_for(client, deadline)
        self._executor.session.server = str(self._transport)
        self._dispatcher = AsyncDispatcher(self._executor, self._transport)
        self._single = AsyncSingleCalls(self._dispatcher)
        self._followers: WeakSet[AsyncMirror | AsyncFailures | AsyncStatistics] = WeakSet()
        self._leases: WeakSet[AsyncLease] = WeakSet()
        self._waits = AsyncWaitRegistry(self._dispatcher)

    @classmethod
    def from_url(cls, url: str, **options: Unpack[StoreOptions]) -> Self:
        """A store on the server of a URL; ``options`` are the constructor's.

        ``memory://`` is a table inside this store alone (extra ``memory``); ``embedded://`` starts a private server
        that lives as long as the store (it takes about 0.1 s); ``redis://``, ``rediss://``, ``valkey://``,
        ``valkeys://`` and ``unix://`` are redis-py's, with its options; ``redis+cluster://host:port`` finds the other
        nodes; ``redis+sentinel://host:port,host:port/service/db`` follows a primary.

        Raises:
            InvalidInputError: the URL is wrong (the message hides its password), or an extra is missing.
            EmbeddedServerError: embedded:// found no server to run, or it did not start.
        """
        # No connection is open yet, so a failing constructor leaves only an embedded server, which ends by itself.
        transport = connect.transport_from_url(
            url, validation.seconds(options.get("deadline", DEFAULT_DEADLINE), "deadline")
        )
        return cls(cast(redis.Redis, transport), **options)  # see transport_for

    async def settings(self) -> Settings | None:
        """The namespace's policy, shards, mode and feed; None when the namespace does not exist. Writes nothing."""
        return await self._dispatcher.run(read_settings(self._executor))

    # Generations

    async def open(
        self, room: int, request: str | None = None, status: KVPoll | int = KVPoll.Bootstrapping
    ) -> AsyncRoom:
        """Open a room for a request: a handle whose writes change no other request's room.

        An absent room gets a new generation. A room that the same request has opened is joined: so ``open`` may be
        repeated, and every rank of a request gets the same generation. A room that has Failed for another request is
        replaced. ``request`` is any id of up to 1,000 printable characters; random by default. ``status`` is the first
        status of the room, Bootstrapping or WaitingForInput.

        Raises:
            RoomBusyError: another request has the room; the error has its id, its age and its status.
            WorldSizeMismatchError: this request has opened it with another number of ranks.
            LeaseLostError: the store's lease was lost.
        """
        return await self._room(
            fenced_commands.open(room, request, status, self._executor.recovery.tracked_rooms.highest_generation)
        )

    async def attach(self, room: int | Handle[Any]) -> AsyncRoom:
        """A handle of the live generation of a room, for a process that did not open it.

        For a handle (of another process, for example) it returns a handle of this store with the same generation,
        without a call.

        Raises:
            RoomNotFoundError: the room is absent (a KeyError).
            InvalidInputError: the handle belongs to another namespace, or was not made by a store.
        """
        if isinstance(room, Handle):
            return AsyncRoom(self._dispatcher, *self._executor.adopt_handle(room))
        return await self._room(fenced_commands.attach(room))

    # Owners

    def lease(self, name: str, ttl: float = 5.0, heartbeat: float | None = None) -> AsyncLease:
        """A lease, for a ``with`` statement in which this store owns the rooms that it creates; see ``Lease``.

        ``name`` is 1 to 300 of ``A-Z a-z 0-9 . _ : @ / % [ ] -``. A name that is taken again passes to the new holder,
        and the live rooms of the former one fail. The lease expires ``ttl`` seconds after the last heartbeat.
        ``heartbeat`` is the seconds between two at most: by default 0.3 of ``ttl``, and ``ttl`` / 10 after one has
        failed. A store holds one lease at a time.

        Raises:
            InvalidInputError: an invalid name; a heartbeat above a third of ttl; on entry: the store has a lease.
            LeaseLostError: on entry: another store takes the same name at the same time.
        """
        self._executor.session.check_open("lease")
        self._leases.add(lease := AsyncLease(self._dispatcher, LeaseConfig.checked(name, ttl, heartbeat)))
        return lease

    async def reap(self) -> int:
        """Check the leases that are due once: fail the live rooms of lost owners; return the number of rooms.

        Lease holders sweep with their heartbeats. The first sweep only marks an expired lease as suspected. A later one
        finds it lost if it has not been renewed for twice ``Lease.heartbeat`` since (by default ``ttl`` / 5), at least
        0.6 s. If nobody had swept for half a ``ttl`` before, it has at least 0.35 ``ttl``: the server may have stood
        still, or its clock was set.
        """
        return await self._dispatcher.run(reaper.reap(self._executor))

    async def owners(self) -> list[Owner]:
        """All leases, and those lost in the last hour with how many rooms failed; the oldest first. Writes nothing."""
        return await self._dispatcher.run(reaper.owners(self._executor))

    # Following

    def mirror(self, *, rooms: Callable[[int], bool] | None = None, period: float | None = None) -> AsyncMirror:
        """A local copy of the table that follows its changes, for a ``with`` statement, as long as the store lives.

        ``rooms`` narrows it to the rooms for which the function is true; its result for a room must not change while
        the room is in the table. ``period``: read every so many seconds, not at each change, for those who only watch.
        """
        self._executor.session.check_open("mirror")
        self._followers.add(mirror := AsyncMirror(self._dispatcher, rooms, period))
        return mirror

    def statistics(self, *, stuck_after: float = 60.0, lookback: float = 0.0, share: float = 0.1) -> AsyncStatistics:
        """Aggregates of the whole table (counts, rates, durations, stuck rooms, owners), for a ``with`` statement.

        They cost the server little, however many rooms there are: the table is read once, slowly, then the change feed
        once a second. ``stuck_after`` is the seconds at one status from which on a live room counts as stuck.
        ``lookback`` is how many seconds before now the feed is read, so that there are rates and reasons at once.
        ``share`` is the most of the server's time that reading the whole table takes: a tenth.
        """
        self._executor.session.check_open("statistics")
        statistics = AsyncStatistics(self._dispatcher, stuck_after, lookback, share)
        self._followers.add(statistics)
        return statistics

    def failures(self, rooms: Callable[[], Iterable[int]]) -> AsyncFailures:
        """Follow what becomes Failed of the rooms that ``rooms`` returns: those held, and those being opened.

        Raises:
            InvalidInputError: on entry: what ``rooms`` returned is no list of rooms.
        """
        self._executor.session.check_open("failures")
        self._followers.add(failures := AsyncFailures(self._dispatcher, rooms))
        return failures

    async def wait(self, room: int, *statuses: KVPoll | int, timeout: float | None = None) -> KVPoll:  # noqa: ASYNC109
        """Wait until a room is at one of ``statuses`` (Success and Failed, if there are none) or further on.

        It returns the status that the room has reached. The end of a room ends every wait for it, so a wait for Success
        may return Failed. During waits (and for 5 s after) a follower reads the feed (on Redis Cluster, one for each
        shard). An outage prolongs the wait, up to ``timeout`` seconds; the first read, and one after a loss of data,
        may take ``deadline`` anyway.

        Raises:
            WaitTimeoutError: the room did not reach it in time (a TimeoutError).
            RoomNotFoundError: the room is absent, or is removed before it reaches it (a KeyError).
            FeedOffError: the namespace was opened with feed_length=0.
        """
        self._executor.session.check_open("wait")
        return await self._waits.wait(lambda: self._run(room_commands.wait(room)), room, statuses, timeout)

    async def aclose(self) -> None:
        """Close the store and all that it has given; after from_url, also what that opened. May be repeated."""
        self._executor.session.closed = True
        for each in [*self._leases, *self._followers]:
            await each.aclose()
        await self._waits.close()
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _room(self, command: Command[Any, OpenedRoom]) -> AsyncRoom:
        found = await self._run(command)
        return AsyncRoom(self._dispatcher, self._executor.namespace, command.rooms[0], found.generation, found.request)

    def _run(self, command: Command[V, T]) -> Awaitable[T]:
        return self._dispatcher.execute(command)
