"""The oracle of rooms with ranks, in plain Python, written from the design and not from the Lua.

One Table, and a StoreOracle for each store on it: a rank, or a store without one. Reasons, decode prefix lengths and
TTLs are as in oracle.py, whose ``merge`` is the rule for one rank's status as it is for a plain room's.
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


def consensus_of(statuses, world_size):
    """The consensus of these statuses."""
    if FAILED in statuses:
        return FAILED
    return KVPoll.Bootstrapping if len(statuses) < world_size else min(statuses)


@dataclass
class Room:
    world_size: int | None
    opened: float
    status: KVPoll | None = None
    """The consensus."""
    live: dict[int, KVPoll] = field(default_factory=dict)
    cleared: dict[int, KVPoll] = field(default_factory=dict)
    updated: float = 0
    expires: float = 0
    version: int = 0
    reason: str | None = None
    failed_by: str | None = None
    life: int = 0
    """The number of the room's generation. This and what follows is for tests/stateful, and 0 or None elsewhere."""
    request: str | None = None
    owner: str | None = None
    is_replayed: bool = False
    """Whether it came back after a loss of data; then some of its ranks may be yet to come."""

    @property
    def is_over(self):
        """Whether no rank that has not cleared is there or yet to come."""
        return not self.live and (not self.is_replayed or len(self.cleared) >= self.world_size)

    def counts(self):
        """How many ranks are at each status, Failed last, and how many have cleared."""
        found = [*self.live.values(), *self.cleared.values()]
        return [*(found.count(status) for status in (*list(KVPoll)[1:], FAILED)), len(self.cleared)]

    def consensus(self):
        return consensus_of([*self.live.values(), *self.cleared.values()], self.world_size)


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

    def write(self, current, status):
        """Set a room's consensus, and what follows from it; return the one before."""
        previous, current.status, current.updated = current.status, status, self.now
        current.expires = self.now + (self.terminal_ttl if status.is_terminal else self.ttl)
        if previous == FAILED != status:
            current.reason = current.failed_by = None
        return previous


class StoreOracle:
    """The methods of a store with a rank, or without."""

    def __init__(self, table, rank=None, world_size=None):
        self.table, self.rank, self.world_size = table, rank, world_size

    @property
    def author(self):
        return None if self.rank is None else f"rank {self.rank}"

    def own(self, current):
        """The status that this rank gave itself; a store without a rank has that of the room."""
        return current.status if self.rank is None else current.live.get(self.rank)

    def view(self, current):
        if current is None or self.rank in current.cleared:
            return None
        return FAILED if current.status == FAILED else self.own(current)

    def mismatch(self, room, operation, current):
        return WorldSizeMismatchError(room, operation, str(current.world_size or 0), str(self.world_size or ""))

    # Writing

    def update_status(self, room, status):
        status, table = KVPoll(status), self.table
        current = table.rooms.get(room)
        if current and self.rank is not None and current.world_size != self.world_size:
            raise self.mismatch(room, "update_status", current)
        outcome = self.decide(current, status)
        if self.rank is None and current and current.world_size and outcome in (Outcome.ADVANCED, Outcome.FAILED):
            raise self.mismatch(room, "update_status", current)
        if table.mode == "prefill" and status == FAILED:
            table.drop_length(room, self.rank)
        if outcome in (Outcome.CREATED, Outcome.ADVANCED, Outcome.FAILED):
            if current is None:
                current = self.create(room)
            self.put(current, FAILED if outcome is Outcome.FAILED else status)
        return Update(outcome, self.view(current))

    def create(self, room):
        current = self.table.rooms[room] = Room(self.world_size, self.table.now)
        return current

    def decide(self, current, status):
        if current and self.rank in current.cleared:
            return Outcome.SKIPPED
        own = self.own(current) if current else None
        if own is None and current and current.status == FAILED:
            return Outcome.SKIPPED if status == FAILED else Outcome.FAILED
        if current and self.table.policy == "strict" and current.status == FAILED and status != FAILED:
            return Outcome.UNCHANGED
        return merge(self.table.policy, own, status).outcome

    def put(self, current, status):
        if self.rank is None:
            self.table.write(current, status)
            return
        current.live[self.rank] = status
        current.version += 1
        previous = self.table.write(current, current.consensus())
        if current.status == FAILED != previous:
            current.failed_by = current.failed_by or self.author

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
        table, current = self.table, self.table.rooms.get(room)
        has_cleared = current and self.rank in current.cleared
        if table.mode == "prefill":
            if current and current.world_size and not has_cleared:
                table.lengths.pop(room, None)
            else:
                table.drop_length(room, None if current and not has_cleared else self.rank)
        if current is None or has_cleared:
            return Update(Outcome.SKIPPED, None)
        if current.status == FAILED:
            return Update(Outcome.UNCHANGED, FAILED)
        current.live = dict.fromkeys(current.live, FAILED)
        current.version += current.world_size is not None
        table.write(current, FAILED)
        current.reason = current.reason or reason
        current.failed_by = current.failed_by or self.author
        return Update(Outcome.FAILED, FAILED)

    def record_failure(self, room, reason):
        current = self.table.rooms.get(room)
        if current is None:
            return False
        if current.reason is None:
            current.reason, current.failed_by = reason, current.failed_by or self.author
        return current.reason == reason

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
        table, current = self.table, self.table.rooms.get(room)
        is_of_a_rank = self.rank is not None and (current is None or current.world_size)
        if is_of_a_rank:
            table.drop_length(room, self.rank)
        else:
            table.lengths.pop(room, None)
        previous = self.view(current) if is_of_a_rank else current and current.status
        if previous is not None:
            if is_of_a_rank:
                current.cleared[self.rank] = current.live.pop(self.rank, FAILED)
            if not is_of_a_rank or current.is_over:
                del table.rooms[room]
        return previous

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
        current, lengths = self.table.rooms.get(room), self.table.lengths.get(room)
        if current is None:
            return None
        return Entry(
            room,
            current.status,
            current.opened,
            current.updated,
            current.expires - self.table.now,
            current.reason,
            lengths.of.get(self.rank) if lengths else None,
            failed_by=current.failed_by,
            world_size=current.world_size,
            ranks={**current.live, **current.cleared},
            cleared=frozenset(current.cleared),
        )

    def consensus(self, rooms):
        table = self.table.rooms
        return [Consensus(table[r].status, 0, table[r].version) if r in table else Consensus(None, 0, 0) for r in rooms]

    def collect(self, room):
        current = self.table.rooms.get(room)
        return {**current.live, **current.cleared} if current else {}

    def rooms(self, status=None):
        return iter([room for room, current in self.table.rooms.items() if status in (None, current.status)])

    def counts(self):
        return {status: len(list(self.rooms(status))) for status in KVPoll}
