"""The table with generations and owners as plain Python: what tests/ranked.py is to ranks, written from the design.

A World is what is on the server, a Process one store on it. A generation is counted here: the life of a room.
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
from tests.support.ranked import Room, Speaker, Table

FAILED = KVPoll.Failed
WRITTEN = (Outcome.CREATED, Outcome.ADVANCED, Outcome.FAILED)


@dataclass
class Life(Room):
    """One generation of a room."""

    lease: Lease | None = None
    openers: set[int] = field(default_factory=set)
    """The processes that would bring it back."""


@dataclass(eq=False)
class Lease:
    """A lease as its holder and the server know it. Times are seconds."""

    name: str
    incarnation: int
    ttl: float
    heartbeat: float
    beaten: float
    next_touch: float
    marked: float | None = None
    is_known_lost: bool = False


class World(Table):
    """One namespace, with its leases."""

    def __init__(self, *args):
        super().__init__(*args)
        self.lives, self.incarnations = 0, 0
        self.leases: dict[str, Lease] = {}
        self.condemned: dict[Lease, str] = {}
        self.owned: dict[int, Lease] = {}
        self.said: set[tuple[int, int | None, int]] = set()
        """(life, rank, length) of each decode prefix length that was set through a handle."""

    def holds(self, lease):
        return self.leases.get(lease.name) is lease

    def condemn(self, lease, reason):
        del self.leases[lease.name]
        if lease in self.owned.values():
            self.condemned.setdefault(lease, reason)

    def look(self):
        for lease in list(self.leases.values()):
            if self.now - lease.beaten <= lease.ttl:
                continue
            if lease.marked is None:
                lease.marked = self.now
            elif self.now - lease.marked >= max(2 * lease.heartbeat, 0.6):
                self.condemn(lease, f"owner {lease.name} lost")

    def reap(self):
        """Fail the live rooms of all who are condemned; how many that were."""
        failed = 0
        for lease, reason in self.condemned.items():
            for room in [room for room, owner in self.owned.items() if owner is lease]:
                del self.owned[room]
                there = self.rooms.get(room)
                if there is None or there.lease is not lease or there.status.is_terminal:
                    continue
                failed += 1
                there.live = dict.fromkeys(there.live, FAILED)
                there.version += there.world_size is not None
                if self.mode == "prefill":
                    self.lengths.pop(room, None)
                self.write(there, FAILED)
                there.reason = there.reason or reason
                there.failed_by = there.failed_by or lease.name
        self.condemned.clear()
        return failed

    def owners(self):
        """(name, state, live rooms) of each lease, the oldest first."""
        found = []
        for lease in sorted([*self.leases.values(), *self.condemned], key=lambda one: one.incarnation):
            lapsed = self.now - lease.beaten > lease.ttl
            state = "suspected" if lease.marked is not None else "expired" if lapsed else "alive"
            there = [self.rooms[room] for room, owner in self.owned.items() if owner is lease and room in self.rooms]
            live = sum(not room.status.is_terminal for room in there)
            found.append((lease.name, "lost" if lease in self.condemned else state, live))
        return found


class Process(Speaker):
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
            world.condemn(world.leases[name], f"owner {name} lost (its name was taken again)")
        world.incarnations += 1
        self.lease = Lease(name, world.incarnations, ttl, heartbeat, world.now, world.now + world.ttl / 3)
        world.leases[name] = self.lease
        world.look()
        world.reap()

    def send_heartbeat(self):
        world, lease = self.table, self.lease
        if not world.holds(lease):
            lease.is_known_lost = True
            return world.look()
        lease.beaten, lease.marked = world.now, None
        world.look()
        world.reap()
        if world.now >= lease.next_touch:
            self.touch([room for room, owner in world.owned.items() if owner is lease])
            lease.next_touch = world.now + world.ttl / 3
        return None

    def give_up(self):
        world, lease, self.lease = self.table, self.lease, None
        if not lease.is_known_lost:
            if world.holds(lease):
                world.condemn(lease, f"owner {lease.name} left")
            world.look()
            world.reap()

    def reap(self):
        self.table.look()
        return self.table.reap()

    def owners(self):
        return self.table.owners()

    def check_lease(self, operation, rooms=()):
        """``rooms`` are those whose rooms_here the store drops when it is the server that says so."""
        if self.lease and not (self.lease.is_known_lost or self.table.holds(self.lease)):
            for room in rooms:
                if room in self.table.rooms:
                    self.table.rooms[room].openers.discard(self.number)
        if self.lease and (self.lease.is_known_lost or not self.table.holds(self.lease)):
            raise LeaseLostError(operation, self.lease.name)

    # Plain writes

    def update_status(self, room, status):
        self.check_lease("update_status", [room])
        there = self.table.rooms.get(room)
        if self.lease and self.rank is None and there and there.world_size:
            raise self.mismatch(room, "update_status", there)
        return super().update_status(room, status)

    def update_many(self, statuses):
        if statuses:
            self.check_lease("update_many", statuses)
        return super().update_many(statuses)

    def put(self, there, status, reason=None):
        world = self.table
        if self.rank is not None:
            there.live[self.rank] = status
            there.version += 1
        was = world.write(there, status if self.rank is None else there.agree())
        if there.status == FAILED:
            there.reason = there.reason or reason
            if was != FAILED:
                there.failed_by = there.failed_by or self.author

    def create(self, room, request=None):
        world = self.table
        world.lives += 1
        there = Life(self.world_size, world.now, life=world.lives, request=request, lease=self.lease)
        if self.lease:
            there.owner, world.owned[room] = self.lease.name, self.lease
        world.rooms[room] = there
        return there

    def touch(self, rooms):
        rooms = list(rooms)
        for room in rooms:
            if room not in self.table.rooms:
                self.table.owned.pop(room, None)
        return super().touch(rooms)

    def clear(self, room):
        there = self.table.rooms.get(room)
        was = super().clear(room)
        lengths = self.table.lengths.get(room)
        if room not in self.table.rooms:
            self.table.owned.pop(room, None)
            if there and lengths and lengths.life == there.life:
                del self.table.lengths[room]
        if there:
            there.openers.discard(self.number)
        return was

    def entry(self, room):
        there, entry = self.table.rooms.get(room), super().entry(room)
        return entry and replace(entry, generation=there.life, request=there.request, owner=there.owner)

    # Generations

    def open(self, room, request, status):
        world, there = self.table, self.table.rooms.get(room)
        self.check_lease("open")
        is_mine = there is not None and there.request == request
        is_free = self.rank not in there.cleared if is_mine else there is None or there.status == FAILED
        if not is_free:
            raise RoomBusyError(room, there.status, 0.0, there.owner, there.request)
        if is_mine and there.world_size != self.world_size:
            raise self.mismatch(room, "open", there)
        if not is_mine:
            if there or (room in world.lengths and world.lengths[room].life is not None):
                world.lengths.pop(room, None)
            world.owned.pop(room, None)
            there = self.create(room, request)
        if self.own(there) is None:
            self.put(there, FAILED if there.status == FAILED else KVPoll(status))
        there.openers.add(self.number)
        return there.life, request

    def attach(self, room):
        there = self.table.rooms.get(room)
        if there is None:
            raise RoomNotFoundError(room, "attach")
        return there.life, there.request

    def life(self, room, life):
        there = self.table.rooms.get(room)
        return there if there and there.life == life else None

    def room_status(self, room, life):
        return self.view(self.life(room, life))

    def room_update(self, room, life, status, reason=None, operation="update"):
        there = self.life(room, life)
        if self.lease and self.lease.is_known_lost:
            self.check_lease(operation)
        if there is None or self.rank in there.cleared:
            return Update(Outcome.STALE, self.view(self.table.rooms.get(room)))
        self.check_lease(operation, [room])
        if there.world_size != self.world_size:
            raise self.mismatch(room, operation, there)
        if status == FAILED and self.table.mode == "prefill":
            self.table.drop_length(room, self.rank)
        outcome = self.decide_fenced(there, status)
        if outcome in WRITTEN:
            self.put(there, FAILED if outcome is Outcome.FAILED else KVPoll(status), reason)
        return Update(outcome, self.view(there))

    def decide_fenced(self, there, status):
        own = self.own(there)
        if status == FAILED:
            return Outcome.UNCHANGED if own == FAILED else Outcome.FAILED
        if own is None:
            return Outcome.FAILED if there.status == FAILED else Outcome.SKIPPED if status > 2 else Outcome.CREATED
        return Outcome.ADVANCED if there.status != FAILED and status > own else Outcome.UNCHANGED

    def room_fail(self, room, life, reason):
        return self.room_update(room, life, FAILED, reason, "fail")

    def room_clear(self, room, life):
        there = self.table.rooms.get(room)
        was = self.view(there) if there and there.world_size else there and there.status
        if self.life(room, life) is None:
            return Update(Outcome.STALE, was)
        if self.rank is not None and there.world_size != self.world_size:
            raise self.mismatch(room, "clear", there)
        self.clear(room)
        return Update(Outcome.STALE if was is None else Outcome.CLEARED, was)

    def room_set_decode_prefix_len(self, room, life, length):
        if self.life(room, life) is None:
            return False
        self.set_decode_prefix_len(room, length)
        self.table.lengths[room].life = life
        self.table.said.add((life, self.rank, length))
        return True

    def room_decode_prefix_len(self, room, life):
        lengths = self.table.lengths.get(room)
        if self.life(room, life) is None or lengths is None or lengths.life not in (None, life):
            return 0
        return lengths.of.get(self.rank, 0)
