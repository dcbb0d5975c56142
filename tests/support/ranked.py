"""Rooms with ranks as plain Python, written from the design and not from the Lua, to hold the stores against.

One table, and for each store on it a Speaker: a rank of so many, or nobody's rank. Reasons, decode prefix lengths and
TTLs stand around it as in tests/oracle.py, whose ``merge`` is the rule for a rank as it is for a room.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from redis_kvpoll import (
    Consensus,
    Entry,
    KVPoll,
    KVTransferError,
    Outcome,
    RoomNotFoundError,
    Update,
    WorldSizeMismatchError,
)
from tests.support.oracle import DEFAULT_REASON, merge

FAILED = KVPoll.Failed


def agreed(statuses, world_size):
    """What ranks agree on that have said so much."""
    if FAILED in statuses:
        return FAILED
    return KVPoll.Bootstrapping if len(statuses) < world_size else min(statuses)


@dataclass
class Room:
    world_size: int | None
    opened: float
    status: KVPoll | None = None
    """What all agree on."""
    live: dict[int, KVPoll] = field(default_factory=dict)
    cleared: dict[int, KVPoll] = field(default_factory=dict)
    updated: float = 0
    expires: float = 0
    version: int = 0
    reason: str | None = None
    failed_by: str | None = None
    life: int = 0
    """Which of the room's generations, counted; it and what follows is for tests/stateful, 0 and None elsewhere."""
    request: str | None = None
    owner: str | None = None

    def agree(self):
        return agreed([*self.live.values(), *self.cleared.values()], self.world_size)


@dataclass
class Lengths:
    of: dict[int | None, int]
    expires: float
    life: int | None = None
    """The generation that they are bound to."""


class Table:
    """One namespace. ``now``, ``ttl`` and ``terminal_ttl`` are seconds."""

    def __init__(self, policy, mode, ttl, terminal_ttl, now):
        self.policy, self.mode, self.ttl, self.terminal_ttl, self.now = policy, mode, ttl, terminal_ttl, now
        self.rooms: dict[int, Room] = {}
        self.lengths: dict[int, Lengths] = {}

    def pass_time(self, seconds):
        self.now += seconds
        for kept in (self.rooms, self.lengths):
            for room in [room for room, item in kept.items() if item.expires <= self.now]:
                del kept[room]

    def drop_length(self, room, rank):
        if room in self.lengths:
            self.lengths[room].of.pop(rank, None)
            if not self.lengths[room].of and self.lengths[room].life is None:
                del self.lengths[room]

    def write(self, there, status):
        """All who look at a room's fields come to this; the rest of it follows from what is agreed on."""
        was, there.status, there.updated = there.status, status, self.now
        there.expires = self.now + (self.terminal_ttl if status.is_terminal else self.ttl)
        if was == FAILED != status:
            there.reason = there.failed_by = None
        return was


class Speaker:
    """The methods of a store that speaks for a rank; or for none."""

    def __init__(self, table, rank=None, world_size=None):
        self.table, self.rank, self.world_size = table, rank, world_size

    @property
    def author(self):
        return None if self.rank is None else f"rank {self.rank}"

    def own(self, there):
        """The status that this rank gave itself; a store without a rank has that of the room."""
        return there.status if self.rank is None else there.live.get(self.rank)

    def view(self, there):
        if there is None or self.rank in there.cleared:
            return None
        return FAILED if there.status == FAILED else self.own(there)

    def mismatch(self, room, operation, there):
        return WorldSizeMismatchError(room, operation, str(there.world_size or 0), str(self.world_size or ""))

    # Writing

    def update_status(self, room, status):
        status, table = KVPoll(status), self.table
        there = table.rooms.get(room)
        if there and self.rank is not None and there.world_size != self.world_size:
            raise self.mismatch(room, "update_status", there)
        outcome = self.decide(there, status)
        if self.rank is None and there and there.world_size and outcome in (Outcome.ADVANCED, Outcome.FAILED):
            raise self.mismatch(room, "update_status", there)
        if table.mode == "prefill" and status == FAILED:
            table.drop_length(room, self.rank)
        if outcome in (Outcome.CREATED, Outcome.ADVANCED, Outcome.FAILED):
            if there is None:
                there = self.create(room)
            self.put(there, FAILED if outcome is Outcome.FAILED else status)
        return Update(outcome, self.view(there))

    def create(self, room):
        there = self.table.rooms[room] = Room(self.world_size, self.table.now)
        return there

    def decide(self, there, status):
        if there and self.rank in there.cleared:
            return Outcome.SKIPPED
        own = self.own(there) if there else None
        if own is None and there and there.status == FAILED:
            return Outcome.SKIPPED if status == FAILED else Outcome.FAILED
        if there and self.table.policy == "strict" and there.status == FAILED and status != FAILED:
            return Outcome.UNCHANGED
        return merge(self.table.policy, own, status).outcome

    def put(self, there, status):
        if self.rank is None:
            self.table.write(there, status)
            return
        there.live[self.rank] = status
        there.version += 1
        was = self.table.write(there, there.agree())
        if there.status == FAILED != was:
            there.failed_by = there.failed_by or self.author

    def update_many(self, statuses):
        done, refused = {}, None
        for room, status in statuses.items():
            try:
                done[room] = self.update_status(room, status)
            except WorldSizeMismatchError as error:
                refused = refused or WorldSizeMismatchError(room, "update_many", error.theirs, error.ours)
        if refused:
            raise refused
        return done

    def abort(self, room, reason=DEFAULT_REASON):
        table, there = self.table, self.table.rooms.get(room)
        has_cleared = there and self.rank in there.cleared
        if table.mode == "prefill":
            if there and there.world_size and not has_cleared:
                table.lengths.pop(room, None)
            else:
                table.drop_length(room, None if there and not has_cleared else self.rank)
        if there is None or has_cleared:
            return Update(Outcome.SKIPPED, None)
        if there.status == FAILED:
            return Update(Outcome.UNCHANGED, FAILED)
        there.live = dict.fromkeys(there.live, FAILED)
        there.version += there.world_size is not None
        table.write(there, FAILED)
        there.reason = there.reason or reason
        there.failed_by = there.failed_by or self.author
        return Update(Outcome.FAILED, FAILED)

    def record_failure(self, room, reason):
        there = self.table.rooms.get(room)
        if there is None:
            return False
        if there.reason is None:
            there.reason, there.failed_by = reason, there.failed_by or self.author
        return there.reason == reason

    def touch(self, rooms):
        table = self.table
        live = {room for room in rooms if room in table.rooms and not table.rooms[room].status.is_terminal}
        for room in live:
            for kept in (table.rooms, table.lengths):
                if room in kept:
                    kept[room].expires = table.now + table.ttl
        return len(live)

    def set_decode_prefix_len(self, room, length):
        lengths = self.table.lengths.setdefault(room, Lengths({}, 0))
        lengths.of[self.rank] = length
        lengths.expires = self.table.now + self.table.ttl

    # Destroying

    def clear(self, room):
        table, there = self.table, self.table.rooms.get(room)
        is_of_a_rank = self.rank is not None and (there is None or there.world_size)
        if is_of_a_rank:
            table.drop_length(room, self.rank)
        else:
            table.lengths.pop(room, None)
        was = self.view(there) if is_of_a_rank else there and there.status
        if was is not None:
            if is_of_a_rank:
                there.cleared[self.rank] = there.live.pop(self.rank, FAILED)
            if not is_of_a_rank or not there.live:
                del table.rooms[room]
        return was

    def clear_many(self, rooms):
        return {room: self.clear(room) for room in dict.fromkeys(rooms)}

    def pop_decode_prefix_len(self, room):
        lengths = self.table.lengths.get(room)
        length = lengths.of.get(self.rank, 0) if lengths else 0
        self.table.drop_length(room, self.rank)
        return length

    def failure_exception(self, room):
        reason = self.failure_reason(room)
        self.clear(room)
        raise KVTransferError(room, reason or "no reason was recorded")

    # Reading

    def get(self, room, default=None):
        status = self.view(self.table.rooms.get(room))
        return default if status is None else status

    def check_status(self, room):
        if self.get(room) is None:
            raise RoomNotFoundError(room)
        return self.get(room)

    def poll(self, rooms):
        return [self.get(room) for room in rooms]

    def failure_reason(self, room):
        return self.table.rooms[room].reason if room in self.table.rooms else None

    def entry(self, room):
        there, lengths = self.table.rooms.get(room), self.table.lengths.get(room)
        if there is None:
            return None
        return Entry(
            room,
            there.status,
            there.opened,
            there.updated,
            there.expires - self.table.now,
            there.reason,
            lengths.of.get(self.rank) if lengths else None,
            failed_by=there.failed_by,
            world_size=there.world_size,
            ranks={**there.live, **there.cleared},
            cleared=frozenset(there.cleared),
        )

    def consensus(self, rooms):
        table = self.table.rooms
        return [Consensus(table[r].status, 0, table[r].version) if r in table else Consensus(None, 0, 0) for r in rooms]

    def collect(self, room):
        there = self.table.rooms.get(room)
        return {**there.live, **there.cleared} if there else {}

    def rooms(self, status=None):
        return iter([room for room, there in self.table.rooms.items() if status in (None, there.status)])

    def counts(self):
        return {status: len(list(self.rooms(status))) for status in KVPoll}
