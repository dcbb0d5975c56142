"""How one client takes part in a table: by a store of its own, or as one of the ranks for which a store speaks.

Invariant: what a client opens or writes is its own, by its rank, under its lease, whoever sends it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from redis_kvpoll import validation
from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.session.rounds import OnAnswer, Rounds
from redis_kvpoll.aio import hosted
from redis_kvpoll.aio.rank_group import AsyncRankGroup, RankLease
from redis_kvpoll.aio.room import AsyncRoom
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.engine.leases.lease_state import LeaseState
from redis_kvpoll.errors import KVPollError, LeaseLostError, RoomNotFoundError
from redis_kvpoll.model import Entry, KVPoll
from redis_kvpoll.protocol.lease_commands import LeaseConfig
from redis_kvpoll.protocol.rank_commands import RankChange


class MemberRoom(Protocol):
    """A generation of a room, to be written by one client."""

    @property
    def generation(self) -> int: ...
    @property
    def has_failed(self) -> bool:
        """Whether it was found Failed, and no follower knows of that."""

    async def write(self, status: KVPoll | None, reason: str, length: int | None) -> None:
        """Record the decode prefix length and merge the status, in this order. The reason is of Failed."""

    async def record_failure(self, reason: str) -> None:
        """Record why it fails, without failing it."""

    async def clear(self) -> None: ...
    def say(self, status: KVPoll | None, reason: str, length: int | None, is_over: bool, on_answer: OnAnswer) -> bool:
        """Do all this in the next round, with what other ranks say. False if this client has no rounds."""


class HeldLease(Protocol):
    """A lease that a client holds."""

    @property
    def lost(self) -> bool: ...
    @property
    def state(self) -> LeaseState:
        """What another member needs to resume it."""

    @property
    def trouble(self) -> str:
        """Why the latest heartbeat failed; empty once one has succeeded."""

    async def aclose(self) -> None: ...
    async def abandon(self, *, as_lost: bool) -> None:
        """Stop renewing it. ``as_lost``: its client is dead, so its rooms fail at once; else it expires."""


class TableMember(Protocol):
    """One client in a table."""

    store: AsyncStatusStore
    """For reads."""

    async def hold_lease(self, ttl: float, stands_still: Callable[[], bool], former: LeaseState | None) -> HeldLease:
        """Take a lease, or resume a former one; LeaseLostError if that is lost. What it opens is under it."""

    async def open(self, room: int, request: str, status: KVPoll) -> MemberRoom: ...
    async def adopt(self, entry: Entry) -> MemberRoom | None:
        """Go on with a room that the client has opened through another member; None if it is gone meanwhile."""


class StoreMember:
    """A client without ranks: the store is its own."""

    def __init__(self, store: AsyncStatusStore, hello: ClientHello) -> None:
        self.store = store
        self._hello = hello

    async def hold_lease(self, ttl: float, stands_still: Callable[[], bool], former: LeaseState | None) -> HeldLease:
        lease = hosted.HostedLease(self.store, _lease_config(self._hello, ttl), stands_still)
        return await (lease.__aenter__() if former is None else lease.resume(former))

    async def open(self, room: int, request: str, status: KVPoll) -> MemberRoom:
        return _StoreRoom(await self.store.open(room, request, status))

    async def adopt(self, entry: Entry) -> MemberRoom | None:
        try:
            handle = await self.store.attach(entry.room)
        except RoomNotFoundError:
            return None
        if handle.generation != entry.generation:
            return None
        hosted.resume_room(handle)
        return _StoreRoom(handle)


class _StoreRoom:
    has_failed = False

    def __init__(self, handle: AsyncRoom) -> None:
        self._handle = handle

    @property
    def generation(self) -> int:
        return self._handle.generation

    async def write(self, status: KVPoll | None, reason: str, length: int | None) -> None:
        if length is not None:
            await self._handle.set_decode_prefix_len(length)
        if status is KVPoll.Failed and reason:
            await self._handle.fail(reason)
        elif status is not None:
            await self._handle.update(status)

    async def record_failure(self, reason: str) -> None:
        await hosted.record_failure(self._handle, reason)

    async def clear(self) -> None:
        await self._handle.clear()

    def say(self, status: KVPoll | None, reason: str, length: int | None, is_over: bool, on_answer: OnAnswer) -> bool:
        return False


class GroupMember:
    """A client that is one of the ranks of a group, of which the store speaks for all."""

    def __init__(
        self, store: AsyncStatusStore, group: AsyncRankGroup, rounds: Rounds, rank: int, hello: ClientHello
    ) -> None:
        self.store = store
        self.rounds = rounds
        self._group = group
        self._ranks = rank, hello.world_size
        self._hello = hello
        self._lease: RankLease | None = None

    async def hold_lease(self, ttl: float, stands_still: Callable[[], bool], former: LeaseState | None) -> HeldLease:
        self._lease = await self._group.hold(self._ranks, _lease_config(self._hello, ttl), former, stands_still)
        return self._lease

    async def open(self, room: int, request: str, status: KVPoll) -> MemberRoom:
        opened = await self._group.open(room, request, status, self._held("open").identity)
        return _GroupRoom(self, room, opened.generation, has_failed=opened.status is KVPoll.Failed)

    async def adopt(self, entry: Entry) -> MemberRoom | None:
        self._group.adopt(entry, self._held("attach").identity)
        return _GroupRoom(self, entry.room, entry.generation or 0)

    async def record_failure(self, room: int, generation: int, reason: str) -> None:
        """Record why a room fails, without failing it."""
        await self._group.record_failure(room, generation, reason, self._held("record_failure").identity)

    def change(self, room: int, generation: int, status: KVPoll | None, reason: str, length: int | None) -> RankChange:
        """Return what this rank says of a room; no status and no length is a clear."""
        return RankChange(
            room,
            self._held("update").identity,
            generation,
            status,
            validation.reason(reason) if reason and status is KVPoll.Failed else "",
            None if length is None else validation.prefix_len(length),
            clears=status is None and length is None,
        )

    async def write(self, change: RankChange) -> None:
        """Write what this rank says, with what the others say at this moment."""
        [answer] = await self._group.write_together([change])
        if isinstance(answer, KVPollError):
            raise answer

    def _held(self, operation: str) -> RankLease:
        if self._lease is None:
            raise LeaseLostError(operation, self._hello.owner)
        return self._lease


class _GroupRoom:
    def __init__(self, member: GroupMember, room: int, generation: int, has_failed: bool = False) -> None:
        self.generation = generation
        self.has_failed = has_failed
        self._member = member
        self._room = room

    async def write(self, status: KVPoll | None, reason: str, length: int | None) -> None:
        await self._member.write(self._member.change(self._room, self.generation, status, reason, length))

    async def record_failure(self, reason: str) -> None:
        await self._member.record_failure(self._room, self.generation, reason)

    async def clear(self) -> None:
        await self._member.write(self._clearing)

    def say(self, status: KVPoll | None, reason: str, length: int | None, is_over: bool, on_answer: OnAnswer) -> bool:
        changes = [self._clearing] if is_over else []
        if status is not None or length is not None:
            changes.insert(0, self._member.change(self._room, self.generation, status, reason, length))
        self._member.rounds.say(changes, on_answer)
        return True

    @property
    def _clearing(self) -> RankChange:
        return self._member.change(self._room, self.generation, None, "", None)


def _lease_config(hello: ClientHello, ttl: float) -> LeaseConfig:
    return replace(LeaseConfig.checked(hello.owner, ttl, None), process=hello.process)
