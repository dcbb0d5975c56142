"""Two sides and an oracle: all three do each step, and then the answers and the whole table are compared."""

from __future__ import annotations

import dataclasses
import pickle

import time_machine

from redis_kvpoll import Consensus, Entry, KVPoll, KVPollError, RoomBusyError, errors
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.handle import Handle
from tests.stateful.oracle import FAILED, Life, Process, World
from tests.stateful.side import NAMESPACE, Side, version_of
from tests.support.blocking import Blocking
from tests.support.ranked import Lengths
from tests.support.servers import keys_without_ttl

# Time passes in whole steps, and TTLs end half-way between two: no key is read in its last moment,
# however long a slow machine takes for an example.
STEP, TTL, TERMINAL, START = 1000, 10_500, 4_500, 1_800_000_000
LEASE_TTL, HEARTBEAT = 2_500, 800
ROOMS = (7, 2**53, 2**53 + 1)


class Bench:
    def __init__(self, servers, flavour, policy, mode, shards, world_size):
        self.shards = shards
        identities = [(rank, world_size) for rank in range(world_size or 0)] + [(None, None)] * (1 if world_size else 3)
        self.world = World(policy, mode, TTL, TERMINAL, START)
        self.processes = [Process(self.world, number, *ranks) for number, ranks in enumerate(identities)]
        options = {"policy": policy, "mode": mode, "shards": shards, "ttl": TTL, "terminal_ttl": TERMINAL}
        stores = [{**options, "rank": rank, "world_size": size} for rank, size in identities]
        self.clock = time_machine.travel(START, tick=True)
        self.clock_shift = self.clock.start()
        self.sides = [Side(*server, stores, flavour) for server in servers]
        self.spare = [
            next(r for r in range(100, 999) if keys.tag(NAMESPACE, shards, r) == t) for t in self.sides[0].tags
        ]

    def close(self):
        for side in self.sides:
            side.close()
        self.clock.stop()

    # Steps

    def do(self, by, name, *args):
        """A method of a store."""
        expected = outcome(lambda: shown(getattr(self.processes[by], name)(*args)))
        for side in self.sides:
            if name == "reap":
                side.forget_sweeps()
            found = outcome(lambda side=side: self.plain(side, getattr(side.stores[by], name)(*args)))
            assert found == expected, self.differs(side, (by, name, *args), found, expected)
        return expected

    def tracked(self, by, name, *args):
        """A method that gives a handle: one of each side, with what the oracle has of it."""
        expected = outcome(lambda: getattr(self.processes[by], name)(*args))
        handles = []
        for side in self.sides:
            found = outcome(lambda side=side: getattr(side.stores[by], name)(*args))
            if not failed(found):
                handles.append(found)
                life = side.life(args[0], found.generation, None if failed(expected) else expected[0])
                found = (life, found.request)
            assert found == expected, self.differs(side, (by, name, *args), found, expected)
        return None if failed(expected) else (by, args[0], expected, handles)

    def use(self, handle, name, *args):
        """A method of a handle."""
        by, room, (life, _), handles = handle
        expected = outcome(lambda: getattr(self.processes[by], f"room_{name}")(room, life, *args))
        for side, one in zip(self.sides, handles, strict=True):
            found = outcome(lambda one=one: getattr(one, name)(*args))
            assert found == expected, self.differs(
                side, (f"life {life} of {room} at {by}", name, *args), found, expected
            )
        return expected

    def hand_over(self, handle, by):
        """A handle is pickled, and another process binds what comes out."""
        _, room, named, handles = handle
        bound = []
        for side, one in zip(self.sides, handles, strict=True):
            loose = pickle.loads(pickle.dumps(one))
            unbound = Blocking(loose, side.runner) if side.runner else loose
            assert failed(outcome(unbound.status)), "a handle of no store was used"
            bound.append(side.stores[by].attach(loose))
            assert isinstance(loose, Handle)
            assert bound[-1] == one
            assert (bound[-1].id, bound[-1].request, bound[-1].generation) == (room, named[1], one.generation)
        return by, room, named, bound

    def lease(self, by, name, *args):
        """A step of a store's lease: take, send_heartbeat or release."""
        expected = outcome(lambda: getattr(self.processes[by], name)(*args))
        if name == "send_heartbeat":
            expected = self.processes[by].lease.is_known_lost
        for side in self.sides:
            found = outcome(lambda side=side: getattr(side, name)(by, *args))
            assert same_error(found, expected), self.differs(side, (by, name, *args), found, expected)

    def pass_time(self, steps):
        self.world.pass_time(steps * STEP)
        for side in self.sides:
            side.pass_time(steps * STEP, self.clock_shift)

    def lose_all(self, order):
        """FLUSHALL, after every process has attached all rooms: so each knows all that can be known."""
        for by in order:
            for room in ROOMS:
                self.tracked(by, "attach", room)
        for side in self.sides:
            side.lose_all(order, self.spare)
        Loss(self, order).check()

    # What must hold

    def check(self):
        world = self.world
        for side in self.sides:
            assert not keys_without_ttl(side.client), f"{side.server.kind}: keys without a TTL"
            for what, found, expected in zip(("rooms", "lengths"), side.table(world), self.expected(), strict=True):
                found = {room: (fields, int(left) // STEP) for room, (fields, left) in found.items()}
                assert found == expected, self.differs(side, what, found, expected)
            in_feed = {
                r: (status, reason, int(left) // STEP) for r, (status, reason, left) in side.feed_table().items()
            }
            expected = {
                room: (there.status, there.reason, int(there.expires - world.now) // STEP)
                for room, there in world.rooms.items()
            }
            assert in_feed == expected, self.differs(side, "feed", in_feed, expected)

    def expected(self):
        world = self.world
        rooms, lengths = {}, {}
        for room, there in world.rooms.items():
            fields = {"status": there.status.name, "generation": there.life, "reason": there.reason}
            fields |= {"failed_by": there.failed_by, "request": there.request, "owner": there.owner}
            for rank, lease in there.parts.items():
                fields["incarnation" if rank is None else f"by:{rank}"] = lease.incarnation
            if there.world_size:
                fields |= {"world_size": str(there.world_size), "version": str(version_of(there.version))}
                fields["counts"] = " ".join(map(str, there.counts()))
            fields |= {f"status:{rank}": status.name for rank, status in there.live.items()}
            fields |= {f"cleared:{rank}": status.name for rank, status in there.cleared.items()}
            fields = {name: value for name, value in fields.items() if value is not None}
            rooms[room] = fields, int(there.expires - world.now) // STEP
        for room, there in world.lengths.items():
            fields = {"length" if r is None else f"length:{r}": str(length) for r, length in there.of.items()}
            fields |= {} if there.life is None else {"generation": there.life}
            lengths[room] = fields, int(there.expires - world.now) // STEP
        return rooms, lengths

    def plain(self, side, value):
        """An answer of the library in the form of the oracle's."""
        if isinstance(value, Entry):
            life = side.life(value.room, value.generation, self.world.rooms[value.room].life)
            value = dataclasses.replace(value, generation=life)
        if isinstance(value, list) and value and hasattr(value[0], "incarnation"):
            shown_ones = [owner for owner in value if owner.state != "lost" or owner.rooms]
            value = [(owner.name, owner.state, owner.rooms) for owner in shown_ones]
        return shown(value)

    def differs(self, side, what, found, expected):
        return f"{side.server.kind}: {what}\n  found    {found}\n  expected {expected}"


class Loss:
    """Compares what was recovered with what must be: rooms by their creators, and the leases that are still held.

    Rooms, generations and statuses are determined; but for the status of a room that a rank has cleared whose process
    does not remember it. The rest (reasons, lengths, the owner that failed a room, the status of one rank) depends on
    what each process had seen: there both sides must be equal, with no more than there was before, and the oracle
    continues from it.
    """

    def __init__(self, bench, order):
        self.world, self.sides, self.processes = bench.world, bench.sides, bench.processes
        self.order = order
        self.before = dict(self.world.rooms)

    def check(self):
        world = self.world
        world.leases, world.lost, world.owned = {}, {}, {}
        # In this order: a former holder that comes before the later one renews its lease, and replays its rooms.
        refused = {by for by in self.order if not self.renew(self.processes[by].lease)}
        back = {}
        for room, there in self.before.items():
            there.creators -= refused
            there.remembered = {rank: until for rank, until in there.remembered.items() if rank not in refused}
            if there.creators - {p.number for p in self.processes if p.rank in there.cleared}:
                back[room] = there
        world.rooms = back
        first, *others = [side.table(world) for side in self.sides]
        for side, other in zip(self.sides[1:], others, strict=True):
            assert without_ttl(other) == without_ttl(first), (
                f"after a loss, {side.server.kind} has {other}, not {first}"
            )
        rooms, lengths = first
        assert rooms.keys() == back.keys(), f"after a loss {set(rooms)} are there, not {set(back)}"
        world.rooms = {room: self.recovered(room, back[room], fields) for room, (fields, _) in rooms.items()}
        world.lengths = {room: self.bound(room, fields) for room, (fields, _) in lengths.items()}

    def renew(self, lease):
        """Renew a lease, if there is one; return whether the server takes replays of its holder."""
        if lease is None or lease.is_known_lost:
            return lease is None
        there = self.world.leases.get(lease.name)
        if there and there.incarnation > lease.incarnation:
            lease.is_known_lost = True
            return False
        self.world.leases[lease.name] = lease
        lease.last_heartbeat, lease.suspected_at = self.world.now, None
        return True

    def recovered(self, room, was, fields):
        world = self.world
        assert (fields["generation"], fields.get("request")) == (was.life, was.request), (room, fields)
        reasons = {None, was.reason, *was.reasons}
        assert fields.get("reason") in reasons, (room, fields)
        there = Life(was.world_size, world.now, life=was.life, request=was.request, creators=was.creators)
        there.is_replayed = True
        there.reasons, there.remembered = reasons, was.remembered
        there.live, there.cleared = ranks(fields, "status:"), ranks(fields, "cleared:")
        there.status = there.consensus() if was.world_size else was.status
        assert fields["status"] == there.status.name, (room, fields)
        # A cleared rank replays its last own status, or that it saw the others fail.
        assert all(status in (was.cleared.get(rank), FAILED) for rank, status in there.cleared.items()), (room, fields)
        if all(was.remembered.get(rank, 0) > world.now for rank in was.cleared):
            assert there.status == was.status, (room, fields)
        there.version = int(fields.get("version", 0))
        there.reason, there.failed_by = fields.get("reason"), fields.get("failed_by")
        if there.owner is None and "owner" in fields:
            there.owner = fields["owner"]
        for name, incarnation in fields.items():
            if name == "incarnation" or name.startswith("by:"):
                lease = there.parts[None if name == "incarnation" else rank_of(name)] = self.lease_of(incarnation)
                if not world.holds(lease):  # a former holder replayed it before the later one renewed
                    world.lost.setdefault(lease, f"owner {lease.name} lost (its name was taken again)")
        if (listed := self.sides[0].listed(room)) is not None:
            world.owned[room] = self.lease_of(listed)
        there.updated = world.now
        there.expires = world.now + (world.terminal_ttl if there.status.is_terminal else world.ttl)
        return there

    def lease_of(self, incarnation):
        """The lease under which a room was replayed."""
        leases = [process.lease for process in self.processes if process.lease]
        (lease,) = [one for one in leases if one.incarnation == incarnation]
        return lease

    def bound(self, room, fields):
        assert fields.get("generation") == self.world.rooms[room].life, (room, fields)
        of = {rank_of(name): int(value) for name, value in fields.items() if name.startswith("length")}
        # Not only the last: a handle does not know that its length was popped or dropped since.
        known = {(rank, length) for life, rank, length in self.world.lengths_set if life == fields["generation"]}
        assert of.items() <= known, f"lengths {of} of room {room} came back; set through handles: {known}"
        return Lengths(of, self.world.now + self.world.ttl, fields["generation"])


def without_ttl(table):
    return [{room: fields for room, (fields, _) in kept.items()} for kept in table]


def rank_of(name):
    return int(name.partition(":")[2]) if ":" in name else None


def ranks(fields, start):
    return {rank_of(name): KVPoll[value] for name, value in fields.items() if name.startswith(start)}


# Answers, as far as they must be equal


def outcome(call):
    """The answer of a call, or ("raised", the error's class, its arguments)."""
    try:
        return call()
    except KVPollError as error:
        args = error.args
        if isinstance(error, RoomBusyError):
            args = (error.room, error.status, error.owner, error.request)  # not its age
        if isinstance(error, errors.WaitTimeoutError):
            args = (error.room,)
        if isinstance(error, errors.InvalidInputError):
            args = ()
        return "raised", type(error).__name__, args


def failed(answer):
    return isinstance(answer, tuple) and len(answer) == 3 and answer[0] == "raised"


def same_error(found, expected):
    return found == expected if failed(found) or failed(expected) or isinstance(expected, bool) else True


def shown(value):
    """An answer without what differs between servers: the times, and which generation a consensus is of."""
    if isinstance(value, Entry):
        return dataclasses.replace(
            value,
            opened_at=0,
            updated_at=0,
            ttl=int(value.ttl) // STEP,
            ranks=dict(value.ranks),
            restored_at=None,
            rank_leases={},
            opening=None,
        )
    if isinstance(value, list):
        return [
            one._replace(generation=0, version=version_of(one.version)) if isinstance(one, Consensus) else one
            for one in value
        ]
    return sorted(value) if hasattr(value, "__next__") else value
