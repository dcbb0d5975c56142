"""The store: the table of one namespace, with its handles, leases, mirrors and waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast
from weakref import WeakSet

import redis

from redis_kvpoll import validation
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
from redis_kvpoll.sync import connect
from redis_kvpoll.sync.dispatcher import Dispatcher
from redis_kvpoll.sync.failures import Failures
from redis_kvpoll.sync.lease import Lease
from redis_kvpoll.sync.listing import Listing
from redis_kvpoll.sync.mirror import Mirror
from redis_kvpoll.sync.room import Room
from redis_kvpoll.sync.single_calls import SingleCalls
from redis_kvpoll.sync.statistics import Statistics
from redis_kvpoll.sync.table import Table
from redis_kvpoll.sync.waits import WaitRegistry
from redis_kvpoll.validation import Mode, Policy

T = TypeVar("T")
V = TypeVar("V")


class StatusStore(StoreBase, Table, Listing):
    """The status table of one namespace, shared by every process that opens it.

    The constructor does no I/O; the first call checks the namespace's settings. Many threads may use one store, and
    then share round trips; so may a child after ``fork``. It is a context manager.

    Args:
        client: a ``redis.Redis`` or ``redis.RedisCluster`` (fakeredis too). Its address, credentials and TLS
            settings are used for connections of the store's own; the client is neither changed nor closed.
        namespace: the name of the table, 1 to 64 of ``A-Z a-z 0-9 . _ -``.
        ttl: seconds that a live room stays without a write or a touch. 900 by default: three times SGLang's 300 s
            bootstrap timeout, so the table never drops a room that SGLang still waits for.
        terminal_ttl: seconds that a room stays after Success or Failed. 300 by default: time for every rank to see it.
        deadline: seconds for one call with all its retries and its time in the queue; for a batch, for each round
            trip. 5 by default: time for a server to restart, and no longer than a scheduler may hang. A server
            that replies byte by byte can exceed it, and another thread that hangs, by 1 s.
        policy: ``"compat"`` or ``"strict"``; None adopts the namespace's, else compat.
        mode: ``"prefill"``, ``"decode"`` or ``"none"``; None adopts the namespace's, else none. In prefill Failed drops
            the room's decode prefix length.
        shards: the number of Redis Cluster slots that the rooms are spread over; None adopts the namespace's, else 1.
        feed_length: the changes that a shard keeps for mirrors, ``wait`` and ``kvpoll tail``, counted in
            entries (a batch puts up to 16 rooms into one); 0 switches the feed off. None adopts the namespace's, else
            100,000: 5 to 40 MB, which at 1,000 changes per second let a mirror resume after more than a minute.
        rank: the rank of a request that this store acts for, from 0; with ``world_size``, or neither. Each rank has a
            status of its own in every room, and "a room" then means this rank's part in it, from its first write to its
            clear. Reads give it, but Failed as soon as any rank has failed. ``abort`` fails all ranks; ``counts`` and
            ``rooms(status)`` use the consensus.
        world_size: the number of ranks, 1 to 1,024. A room with another number is refused.
        read_only: write nothing, not even the settings: for a replica, a server that refuses writes, or a user who may
            only read (``kvpoll acl --read-only``). A namespace that does not exist is empty; ``mirror()`` and
            ``failures()`` raise InvalidInputError on entry. With ``shards``, a table whose settings alone are gone is
            read.

    Every method may raise, besides what it names:
        InvalidInputError: an argument was refused; nothing was sent.
        NamespaceMismatchError: the namespace is in use with another policy, mode, number of shards or feed_length.
        StoreUnavailableError: no answer within the deadline.
        OutcomeUnknownError: a destructive call was sent, and there is no reply.
        WorldSizeMismatchError: the room has another number of ranks than this store; nothing was written.
        ServerRefusedError: the server rejected it for good (permissions, memory, a foreign key).
        LeaseLostError: its lease was lost (from an update, open, set_decode_prefix_len, a handle's update or fail).
        CorruptEntryError: a room's key holds what this library never writes.
        ReadOnlyStoreError: the call writes, and the store is ``read_only``.
        StoreClosedError: the store was closed.
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
        self._dispatcher = Dispatcher(self._executor, self._transport)
        self._single = SingleCalls(self._dispatcher)
        self._followers: WeakSet[Mirror | Failures | Statistics] = WeakSet()
        self._leases: WeakSet[Lease] = WeakSet()
        self._waits = WaitRegistry(self._dispatcher)

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
        transport = connect.transport_from_url(
            url, validation.seconds(options.get("deadline", DEFAULT_DEADLINE), "deadline")
        )
        try:
            return cls(cast(redis.Redis, transport), **options)  # see transport_for
        except BaseException:
            transport.close()
            raise

    def settings(self) -> Settings | None:
        """The namespace's policy, shards, mode and feed; None when the namespace does not exist. Writes nothing."""
        return self._dispatcher.run(read_settings(self._executor))

    # Generations

    def open(self, room: int, request: str | None = None, status: KVPoll | int = KVPoll.Bootstrapping) -> Room:
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
        return self._room(
            fenced_commands.open(room, request, status, self._executor.recovery.tracked_rooms.highest_generation)
        )

    def attach(self, room: int | Handle[Any]) -> Room:
        """A handle of the live generation of a room, for a process that did not open it.

        For a handle (of another process, for example) it returns a handle of this store with the same generation,
        without a call.

        Raises:
            RoomNotFoundError: the room is absent (a KeyError).
            InvalidInputError: the handle belongs to another namespace, or was not made by a store.
        """
        if isinstance(room, Handle):
            return Room(self._dispatcher, *self._executor.adopt_handle(room))
        return self._room(fenced_commands.attach(room))

    # Owners

    def lease(self, name: str, ttl: float = 5.0, heartbeat: float | None = None) -> Lease:
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
        self._leases.add(lease := Lease(self._dispatcher, LeaseConfig.checked(name, ttl, heartbeat)))
        return lease

    def reap(self) -> int:
        """Check the leases that are due once: fail the live rooms of lost owners; return the number of rooms.

        Lease holders sweep with their heartbeats. The first sweep only marks an expired lease as suspected. A later one
        finds it lost if it has not been renewed for twice ``Lease.heartbeat`` since (by default ``ttl`` / 5), at least
        0.6 s. If nobody had swept for half a ``ttl`` before, it has at least 0.35 ``ttl``: the server may have stood
        still, or its clock was set.
        """
        return self._dispatcher.run(reaper.reap(self._executor))

    def owners(self) -> list[Owner]:
        """All leases, and those lost in the last hour with how many rooms failed; the oldest first. Writes nothing."""
        return self._dispatcher.run(reaper.owners(self._executor))

    # Following

    def mirror(self, *, rooms: Callable[[int], bool] | None = None, period: float | None = None) -> Mirror:
        """A local copy of the table that follows its changes, for a ``with`` statement, as long as the store lives.

        ``rooms`` narrows it to the rooms for which the function is true; its result for a room must not change while
        the room is in the table. ``period``: read every so many seconds, not at each change, for those who only watch.
        """
        self._executor.session.check_open("mirror")
        self._followers.add(mirror := Mirror(self._dispatcher, rooms, period))
        return mirror

    def statistics(self, *, stuck_after: float = 60.0, lookback: float = 0.0, share: float = 0.1) -> Statistics:
        """Aggregates of the whole table (counts, rates, durations, stuck rooms, owners), for a ``with`` statement.

        They cost the server little, however many rooms there are: the table is read once, slowly, then the change feed
        once a second. ``stuck_after`` is the seconds at one status from which on a live room counts as stuck.
        ``lookback`` is how many seconds before now the feed is read, so that there are rates and reasons at once.
        ``share`` is the most of the server's time that reading the whole table takes: a tenth.
        """
        self._executor.session.check_open("statistics")
        statistics = Statistics(self._dispatcher, stuck_after, lookback, share)
        self._followers.add(statistics)
        return statistics

    def failures(self, rooms: Callable[[], Iterable[int]]) -> Failures:
        """Follow what becomes Failed of the rooms that ``rooms`` returns: those held, and those being opened.

        Raises:
            InvalidInputError: on entry: what ``rooms`` returned is no list of rooms.
        """
        self._executor.session.check_open("failures")
        self._followers.add(failures := Failures(self._dispatcher, rooms))
        return failures

    def wait(self, room: int, *statuses: KVPoll | int, timeout: float | None = None) -> KVPoll:
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
        return self._waits.wait(lambda: self._run(room_commands.wait(room)), room, statuses, timeout)

    def close(self) -> None:
        """Close the store and all that it has given; after from_url, also what that opened. May be repeated."""
        self._executor.session.closed = True
        for each in [*self._leases, *self._followers]:
            each.close()
        self._waits.close()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _room(self, command: Command[Any, OpenedRoom]) -> Room:
        found = self._run(command)
        return Room(self._dispatcher, self._executor.namespace, command.rooms[0], found.generation, found.request)

    def _run(self, command: Command[V, T]) -> T:
        return self._dispatcher.execute(command)
