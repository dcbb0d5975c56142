"""The members of a group: the ranks for which a store speaks besides itself, each with its lease and its rooms.

A member is tracked, and recovered after a loss of data, as a store of its rank is. Its calls are told by its identity,
which their arguments have.

Invariant: a member whose lease was lost or given up is no member any more; what it held is not replayed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from redis_kvpoll.engine.recovery import tracking
from redis_kvpoll.engine.recovery.lease_holder import LeaseHolder, Renewable
from redis_kvpoll.engine.recovery.marks import Mark
from redis_kvpoll.engine.recovery.tracked_rooms import CREATORS, OTHERS, TrackedRooms
from redis_kvpoll.engine.recovery.tracked_state import TrackedRoom
from redis_kvpoll.model import Ending, Outcome, RoomFailure
from redis_kvpoll.protocol import keys, rank_commands, script_specs
from redis_kvpoll.protocol.rank_commands import RankIdentity, SentChange
from redis_kvpoll.protocol.replies import parse_status
from redis_kvpoll.protocol.script_call import Call, CallContext


class RankMember(LeaseHolder):
    """One rank, and the lease under which it takes part, if any."""

    _kind = "rank"

    def __init__(self, members: Members, rank: int, world_size: int, rooms: TrackedRooms) -> None:
        super().__init__()
        self.identity = RankIdentity(rank, world_size)
        self.tracked_rooms = rooms
        self._members = members
        self._made_of: CallContext | None = None
        self._context: CallContext | None = None

    def join(self) -> None:
        """Make it a member, under the lease that it has."""
        self._members[self.identity] = self

    def leave(self) -> None:
        """Make it no member any more. May be repeated."""
        self._members.pop(self.identity, None)

    def context(self, context: CallContext) -> CallContext:
        """Return the context of its calls, from that of the store."""
        if self._context is None or self._made_of is not context:
            rank, world_size, owner, incarnation = self.identity
            self._context = replace(
                context,
                rank=str(rank),
                world_size=str(world_size),
                owner=owner,
                incarnation=incarnation,
            )
            self._made_of = context
        return self._context

    # As Recovery, for the keeper of its lease

    def attach_lease(self, lease: Renewable, owner: str, incarnation: str) -> None:
        """Put it under a lease, and make it a member."""
        self.lease, self.identity = lease, self.identity._replace(owner=owner, incarnation=incarnation)
        self.join()

    def detach_lease(self, lease: Renewable) -> None:
        """End its membership, if it is under this lease."""
        if self.lease is lease:
            self.leave()
        super().detach_lease(lease)


class Members(dict[RankIdentity, RankMember]):
    """The members of a group, by their identity; none in a store for itself alone.

    ``own`` is what the store itself tracks. What is said here of *all* is of it and of what each member tracks.
    """

    def __init__(self, own: TrackedRooms) -> None:
        super().__init__()
        self.own = own

    @property
    def all_tracked(self) -> list[TrackedRooms]:
        """What the store itself tracks, and what each member does."""
        return [self.own, *(member.tracked_rooms for member in list(self.values()))]

    def fail(self, context: CallContext, failure: RoomFailure) -> None:
        """Note a failure that a follower has read: whoever tracks the room brings it back as Failed."""
        tag = keys.tag(context.namespace, context.shards, failure.room)
        for rooms in self.all_tracked:
            rooms.fail(tag, failure.room, failure.generation, failure.reason or "", time.monotonic())

    @property
    def leases(self) -> list[Renewable]:
        """The leases of the members, without that of the store itself."""
        return [member.lease for member in list(self.values()) if member.lease is not None]

    def any_tracks(self, tag: str) -> bool:
        """Whether any of all tracks rooms of a shard."""
        return any(rooms.in_shard(tag) for rooms in self.all_tracked)

    def await_creator(self, tag: str, now: float) -> bool:
        """Whether rooms of a shard await their creator, and are to be replayed again by now."""
        due = [rooms.awaiting_shards[tag] for rooms in self.all_tracked if tag in rooms.awaiting_shards]
        return bool(due) and min(due) <= now

    def data_lost(self, tag: str, now: float, with_ended: bool = False) -> int:
        """As TrackedRooms.data_lost, for all."""
        return sum(rooms.data_lost(tag, now, with_ended) for rooms in self.all_tracked)

    def server_changed(self, tag: str, kept: Mark | None, now: float) -> int:
        """As TrackedRooms.server_changed, for all."""
        return sum(rooms.server_changed(tag, kept, now) for rooms in self.all_tracked)

    def replays(self, tag: str, context: CallContext, before: Call | None = None) -> Iterator[Call]:
        """As TrackedRooms.replays, for all; creators first, as whom one awaits may be another.

        ``before`` is the call that follows, if any. What it is to clear is not created for that moment; if it is not
        sent then, the next replay creates it.
        """
        held = self._held(before)
        for roles in (CREATORS, OTHERS) if self else (CREATORS | OTHERS,):
            members = list(self.values())
            yield from self.own.replays(tag, context, time.monotonic(), roles, held)
            for member in members:
                of_member = member.context(context)
                yield from member.tracked_rooms.replays(tag, of_member, time.monotonic(), roles, held)

    def mark_clearing(self, call: Call) -> None:
        """Note that a call is sent, one of tracking.CLEARING: until its reply, what it clears is not created again."""
        for rooms, room, fence in self._cleared_by(call):
            rooms.mark_room_clearing(call.tag, room, fence)

    def _held(self, before: Call | None) -> dict[int, TrackedRoom]:
        """Return what a call is to clear, by ``id()``: tracked rooms are compared by their values."""
        if before is None or before.spec not in tracking.CLEARING:
            return {}
        tag, cleared = before.tag, self._cleared_by(before)
        found = [(rooms.in_shard(tag).get(room), fence) for rooms, room, fence in cleared]
        return {id(one): one for one, fence in found if one is not None and one.is_of(fence)}

    def _cleared_by(self, call: Call) -> Iterator[tuple[TrackedRooms, int, str]]:
        """Yield who tracks each room that a call clears, the room, and its generation, empty for any."""
        for room, words in zip(call.rooms, call.room_args, strict=True):
            if call.spec is not script_specs.WRITE_RANKS:
                yield self.own, room, words
            elif rank_commands.ABSENT in words:
                for change in rank_commands.sent_changes(words):
                    if change.clears and (member := self.get(change.identity)):
                        yield member.tracked_rooms, room, str(change.generation)

    def observe(self, call: Call, reply: Sequence[Any], mark: Mark | None, now: float) -> None:
        """Update what all track, as ``tracking.observe``."""
        spec = call.spec
        if spec is script_specs.WRITE_RANKS:
            self._observe_ranks(call, reply, mark, now)
        elif "incarnation" in spec.shared_args and call.shared_args[script_specs.CALLER_IDENTITY][0]:
            rank, world_size, owner, incarnation = call.shared_args[script_specs.CALLER_IDENTITY]
            if member := self.get(RankIdentity(int(rank), int(world_size), owner, incarnation)):
                tracking.observe(member.tracked_rooms, call, reply, mark, now)
        else:
            for rooms in self.all_tracked if spec is script_specs.TOUCH else [self.own]:
                tracking.observe(rooms, call, reply, mark, now)

    def _observe_ranks(self, call: Call, reply: Sequence[Any], mark: Mark | None, now: float) -> None:
        for room, words, outcomes in zip(call.rooms, call.room_args, reply, strict=True):
            changes, told = rank_commands.sent_changes(words), rank_commands.outcomes_of(outcomes)
            for change, found in zip(changes, told, strict=False):  # an error replaces them all
                if member := self.get(change.identity):
                    _observe_rank(member.tracked_rooms, call.tag, room, change, found, mark, now)
                if change.clears and found[0] == Ending.ENDED.value:
                    for rooms in self.all_tracked:
                        rooms.end(call.tag, room, change.generation, now)


def _observe_rank(
    rooms: TrackedRooms,
    tag: str,
    room: int,
    change: SentChange,
    told: tuple[int, bytes],
    mark: Mark | None,
    now: float,
) -> None:
    (code, text), generation = told, change.generation
    if change.clears:
        return tracking.observe_cleared(rooms, tag, room, str(generation), code, mark, now)
    if change.status:
        found = generation, code, parse_status(text), change.reason
        tracking.observe_written(rooms, tag, room, found, mark, now)
    tracked = rooms.in_shard(tag).get(room)
    if change.length and tracked and tracked.generation == generation and code != Outcome.STALE.value:
        tracked.length = change.length
        if code not in script_specs.WRITTEN:
            rooms.unmark(tag, room, None)  # a length alone leaves no entry
    return None
