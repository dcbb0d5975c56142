"""The oracle of generations, owners and leases, on top of support/ranked.py, written from the design.

A World is the data on the server, a Process one store on it. Generations are numbered from 1: a room's lives.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from redis_kvpoll import (
    InvalidInputError,
    KVPoll,
    LeaseLostError,
    Outcome,
    RoomBusyError,
    RoomNotFoundError,
    Update,
)
from tests.support.ranked import Room, StoreOracle, Table

FAILED = KVPoll.Failed
WRITTEN = (Outcome.CREATED, Outcome.ADVANCED, Outcome.FAILED)


@dataclass
class Life(Room):
    """One generation of a room."""

    parts: dict[int | None, Lease] = field(default_factory=dict)
    """The leases under which it is owned, by rank; without ranks, by None."""
    creators: set[int] = field(default_factory=set)
    """The processes that would recover it."""
    remembered: dict[int, float] = field(default_factory=dict)
    """By rank that has cleared it: until when its process would recover its last status."""
    reasons: set[str | None] = field(default_factory=set)
    """Its reasons before losses of data, and those given for a failure that had one: who gave one may replay first."""


@dataclass(eq=False)
class Lease:
    """A lease as its holder and the server know it. Times are seconds."""

    name: str
    incarnation: int
    ttl: float
    heartbeat: float
    last_heartbeat: float
    next_touch: float
    suspected_at: float | None = None
    is_known_lost: bool = False


class World(Table):
    """One namespace, with its leases."""

    def __init__(self, *args):
        super().__init__(*args)
        self.lives, self.incarnations = 0, 0
        self.leases: dict[str, Lease] = {}
        self.lost: dict[Lease, str] = {}
        self.owned: dict[int, Lease] = {}
        """The lease by which each room is listed: it keeps the room alive."""
        self.lengths_set: set[tuple[int, int | None, int]] = set()
        """(life, rank, length) of each decode prefix length that was set through a handle."""

    def holds(self, lease):
        return self.leases.get(lease.name) is lease

    def lose(self, lease, reason):
        del self.leases[lease.name]
        self.lost.setdefault(lease, reason)

    def sweep(self):
        for lease in list(self.leases.values()):
            if self.now - lease.last_heartbeat <= lease.ttl:
                continue
            if lease.suspected_at is None:
                lease.suspected_at = self.now
            elif self.now - lease.suspected_at >= max(2 * lease.heartbeat, 0.6):
                self.lose(lease, f"owner {lease.name} lost")

    def reap(self):
        """Fail the live rooms of all lost leases; return how many."""
        failed = 0
        for lease, reason in sorted(self.lost.items(), key=lambda item: item[0].incarnation):
            for room in list(self.owned):
                current = self.rooms.get(room)
                parts = sorted(current.parts.values(), key=lambda one: one.incarnation) if current else []
                fails = lease in parts and not current.status.is_terminal
                ranks = [rank for rank, one in current.parts.items() if one is lease] if fails else []
                if self.owned[room] is lease:
                    del self.owned[room]
                    if others := [one for one in parts if one is not lease and not fails]:
                        self.owned[room] = others[0]
                if current and current.world_size:
                    current.parts = {r: one for r, one in current.parts.items() if not fails and one is not lease}
                if not fails:
                    continue
                failed += 1
                current.live = dict.fromkeys(current.live, FAILED)
                current.version += current.world_size is not None
                if self.mode == "prefill":
                    self.lengths.pop(room, None)
                self.write(current, FAILED)
                current.reason = current.reason or reason
                by = f"{lease.name} rank {ranks[0]}" if current.world_size else lease.name
                current.failed_by = current.failed_by or by
        self.lost.clear()
        return failed

    def owners(self):
        """(name, state, live rooms) of each lease, the oldest first."""
        found = []
        for lease in sorted([*self.leases.values(), *self.lost], key=lambda one: one.incarnation):
            expired = self.now - lease.last_heartbeat > lease.ttl
            state = "suspected" if lease.suspected_at is not None else "expired" if expired else "alive"
            parts = [room.parts.values() for room in self.rooms.values() if not room.status.is_terminal]
            live = sum(lease in of_room for of_room in parts)
            if lease not in self.lost or live:
                found.append((lease.name, "lost" if lease in self.lost else state, live))
        return found


class Process(StoreOracle):
    """A store's methods, and those of its handles: there the room and its life come first."""

    def __init__(self, world, number, rank=None, world_size=None):
        super().__init__(world, rank, world_size)
        self.number = number
        self.lease: Lease | None = None

    @property
    def author(self):
        rank = "" if self.rank is None else f"rank {self.rank}"
        return f"{self.lease.name if self.lease else ''} {rank}".strip() or None

    # Leases

    def take(self, name, ttl, heartbeat):
        world = self.table
        if self.lease:
            raise InvalidInputError("lease: it has one")
        if name in world.leases:
            world.lose(world.leases[name], f"owner {name} lost (its name was taken again)")
        world.incarnations += 1
        self.lease = Lease(name, world.incarnations, ttl, heartbeat, world.now, world.now + world.ttl / 3)
        world.leases[name] = self.lease
        world.reap()

    def send_heartbeat(self):
        world, lease = self.table, self.lease
        if not world.holds(lease):
            lease.is_known_lost = True
            for room in world.rooms.values():  # the store forgets what it would recover
                room.creators.discard(self.number)
                room.remembered.pop(self.rank, None)
            return world.sweep()
        lease.last_heartbeat, lease.suspected_at = world.now, None
        world.sweep()
        world.reap()
        if world.now >= lease.next_touch:
            self.touch([room for room, owner in world.owned.items() if owner is lease])
            lease.next_touch = world.now + world.ttl / 3
        return None

    def release(self):
        world, lease, self.lease = self.table, self.lease, None
        if not lease.is_known_lost:
            if world.holds(lease):
                world.lose(lease, f"owner {lease.name} left")
            world.reap()

    def reap(self):
        self.table.sweep()
        return self.table.reap()

    def owners(self):
        return self.table.owners()

    def abort(self, room, *reason):
        done = super().abort(room, *reason)
        if done.outcome is Outcome.FAILED:
            self.table.rooms[room].reasons.update(reason)
            if self.table.rooms[room].world_size:
                self.table.rooms[room].parts.clear()
        return done

    def check_lease(self, operation, rooms=()):
        """Raise if the lease is lost. If only the server knows that, the store stops tracking ``rooms``."""
        if self.lease and not (self.lease.is_known_lost or self.table.holds(self.lease)):
            for room in rooms:
                if room in self.table.rooms:
                    self.table.rooms[room].creators.discard(self.number)
        if self.lease and (self.lease.is_known_lost or not self.table.holds(self.lease)):
            raise LeaseLostError(operation, self.lease.name)

    def check_known_lease(self, operation):
        """Raise if the lease is known to be lost."""
        if self.lease and self.lease.is_known_lost:
            raise LeaseLostError(operation, self.lease.name)

    # Plain writes

    def set_decode_prefix_len(self, room, length):
        self.check_known_lease("set_decode_prefix_len")
        lengths, current = self.table.lengths.get(room), self.table.rooms.get(room)
        if lengths and lengths.life not in (None, current and current.life):
            del self.table.lengths[room]
        super().set_decode_prefix_len(room, length)

    def update_status(self, room, status):
        self.check_lease("update_status", [room])
        current = self.table.rooms.get(room)
        if self.lease and self.rank is None and current and current.world_size:
            raise self.mismatch(room, "update_status", current)
        return super().update_status(room, status)

    def update_many(self, statuses):
        if statuses:
            self.check_lease("update_many", statuses)
        return super().update_many(statuses)

    def put(self, current, status, reason=None):
        world = self.table
        if self.rank is not None:
            current.live[self.rank] = status
            current.version += 1
            if status.is_terminal:
                current.parts.pop(self.rank, None)
            elif self.lease:
                current.parts[self.rank] = self.lease
                world.owned.setdefault(next(room for room, one in world.rooms.items() if one is current), self.lease)
        previous = world.write(current, status if self.rank is None else current.consensus())
        if current.status == FAILED:
            current.reason = current.reason or reason
            current.reasons.add(reason)
            if previous != FAILED:
                current.failed_by = current.failed_by or self.author

    def create(self, room, request=None):
        world = self.table
        world.lives += 1
        current = Life(self.world_size, world.now, life=world.lives, request=request)
        if self.lease:
            current.owner, world.owned[room] = self.lease.name, self.lease
            if self.rank is None:
                current.parts[None] = self.lease
        world.rooms[room] = current
        return current

    def touch(self, rooms):
        rooms = list(rooms)
        for room in rooms:
            if room not in self.table.rooms:
                self.table.owned.pop(room, None)
        return super().touch(rooms)

    def clear(self, room):
        current = self.table.rooms.get(room)
        previous = super().clear(room)
        lengths = self.table.lengths.get(room)
        if room not in self.table.rooms or (current.world_size and not current.live):
            self.table.owned.pop(room, None)
        if room not in self.table.rooms and current and lengths and lengths.life == current.life:
            del self.table.lengths[room]
        if current:
            if previous is not None and self.rank in current.cleared and self.number in current.creators:
                current.remembered[self.rank] = self.table.now + self.table.ttl
            current.creators.discard(self.number)
            current.parts.pop(self.rank, None)
        return previous

    def entry(self, room):
        current, entry = self.table.rooms.get(room), super().entry(room)
        return entry and replace(entry, generation=current.life, request=current.request, owner=current.owner)

    # Generations

    def open(self, room, request, status):
        world, current = self.table, self.table.rooms.get(room)
        self.check_lease("open")
        is_mine = current is not None and current.request == request
        is_free = self.rank not in current.cleared if is_mine else current is None or current.status == FAILED
        if not is_free:
            raise RoomBusyError(room, current.status, 0.0, current.owner, current.request)
        if is_mine and current.world_size != self.world_size:
            raise self.mismatch(room, "open", current)
        if not is_mine:
            if current or (room in world.lengths and world.lengths[room].life is not None):
                world.lengths.pop(room, None)
            world.owned.pop(room, None)
            current = self.create(room, request)
        if self.own(current) is None:
            self.put(current, FAILED if current.status == FAILED else KVPoll(status))
        current.creators.add(self.number)
        return current.life, request

    def attach(self, room):
        current = self.table.rooms.get(room)
        if current is None:
            raise RoomNotFoundError(room, "attach")
        return current.life, current.request

    def life(self, room, life):
        current = self.table.rooms.get(room)
        return current if current and current.life == life else None

    def room_status(self, room, life):
        return self.view(self.life(room, life))

    def room_update(self, room, life, status, reason=None, operation="update"):
        current = self.life(room, life)
        self.check_known_lease(operation)
        if current is None or self.rank in current.cleared:
            return Update(Outcome.STALE, self.view(self.table.rooms.get(room)))
        self.check_lease(operation, [room])
        if current.world_size != self.world_size:
            raise self.mismatch(room, operation, current)
        if status == FAILED and self.table.mode == "prefill":
            self.table.drop_length(room, self.rank)
        outcome = self.decide_fenced(current, status)
        if outcome in WRITTEN:
            self.put(current, FAILED if outcome is Outcome.FAILED else KVPoll(status), reason)
        return Update(outcome, self.view(current))

    def decide_fenced(self, current, status):
        own = self.own(current)
        if status == FAILED:
            return Outcome.UNCHANGED if own == FAILED else Outcome.FAILED
        if own is None:
            return Outcome.FAILED if current.status == FAILED else Outcome.SKIPPED if status > 2 else Outcome.CREATED
        return Outcome.ADVANCED if current.status != FAILED and status > own else Outcome.UNCHANGED

    def room_fail(self, room, life, reason):
        return self.room_update(room, life, FAILED, reason, "fail")

    def room_clear(self, room, life):
        current = self.table.rooms.get(room)
        previous = self.view(current) if current and current.world_size else current and current.status
        if self.life(room, life) is None:
            return Update(Outcome.STALE, previous)
        if self.rank is not None and current.world_size != self.world_size:
            raise self.mismatch(room, "clear", current)
        self.clear(room)
        return Update(Outcome.STALE if previous is None else Outcome.CLEARED, previous)

    def room_set_decode_prefix_len(self, room, life, length):
        self.check_known_lease("set_decode_prefix_len")
        if self.life(room, life) is None:
            return False
        self.set_decode_prefix_len(room, length)
        self.table.lengths[room].life = life
        self.table.lengths_set.add((life, self.rank, length))
        return True

    def room_decode_prefix_len(self, room, life):
        lengths = self.table.lengths.get(room)
        if self.life(room, life) is None or lengths is None or lengths.life not in (None, life):
            return 0
        return lengths.of.get(self.rank, 0)
