"""A replica driven by hand: the server that it follows, and the replies that are still to come."""

from __future__ import annotations

import contextlib

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import fenced_commands, room_commands
from redis_kvpoll.protocol.feed_ids import number_of, text_of
from redis_kvpoll.protocol.script_specs import SNAPSHOT
from redis_kvpoll.replica.replica import Replica
from tests.support.contexts import context
from tests.support.internals import ahead_of, ids_of, own_writes_of, read_positions_of, reasons_of, unread_of
from tests.support.ranked import StoreOracle, Table

CONTEXT = context()
ROOMS = range(5)


def anything(room):
    return True


def replica_of(is_relevant=anything, **changes):
    return Replica(context(**changes), contextlib.nullcontext(), is_relevant)


class Server:
    """One shard of a server as the scripts would leave it: the rooms, and the feed of what changed."""

    def __init__(self, start=1):
        self.last = start << 64
        self.rooms = {}
        self.feed = []
        self.reasons = {}
        """{room: (the id of the entry that gives the reason, the reason)}"""
        self.history = {room: [(-1, None)] for room in ROOMS}

    def write(self, statuses, entries=1):
        """Change rooms in one step, in so many entries; the id of the last."""
        items = list(statuses.items())
        for at in range(0, len(items), -(-len(items) // entries)):
            self.last += 1
            fields = [b"ttl_ms", b"900000"]
            for room, status in items[at : at + -(-len(items) // entries)]:
                fields += [b"%d" % room, status.name.encode() if status is not None else b"absent"]
                if status is KVPoll.Failed:
                    reason = f"why {self.last}"
                    fields += [b"reason", reason.encode()]
                    self.reasons[room] = self.last, reason
                else:
                    self.reasons.pop(room, None)  # only a room that has failed has one here
                self._set(room, status)
            self.feed.append((text_of(self.last).encode(), fields))
        return text_of(self.last).encode()

    def _set(self, room, status):
        self.history[room].append((self.last, status))
        if status is None:
            self.rooms.pop(room, None)
        else:
            self.rooms[room] = status

    def expire(self, room):
        """Remove a room without an entry in the feed."""
        self.reasons.pop(room, None)
        self._set(room, None)

    def snapshot(self, rooms):
        reply = []
        for room in rooms:
            status = self.rooms.get(room)
            reply += [None, -2] if status is None else [status.name.encode(), 900_000]
        return text_of(self.last).encode(), list(rooms), reply

    def after(self, position):
        return [entry for entry in self.feed if number_of(entry[0]) > position]

    def could_be(self, room, at, status):
        """Whether the room had the status at that id; it may have expired at the same id."""
        last = max(when for when, _ in self.history[room] if when <= at)
        return (last, status) in self.history[room]


class Run:
    """A replica that follows a server, and the replies that are still on their way."""

    def __init__(self):
        self.replica = replica_of()
        self.shard = self.replica.shards["ns"]
        self.replica.notifying = True
        self.server = Server()
        self.replies = []
        self.reported = []

    def start(self):
        self.started_at = self.server.last
        self.replica.start_resync("ns", text_of(self.server.last).encode(), 0)

    def reasons(self):
        """{room: its reason}, of the rooms that are there for this process, if recorded since the copy began"""
        found = self.server.reasons.items()
        return {room: reason for room, (at, reason) in found if at > self.started_at and room in self.server.rooms}

    def shown_reasons(self):
        shown = {room: self.replica.failure_reason(room) for room in ROOMS}
        return {room: reason for room, reason in shown.items() if reason is not None}

    def own(self, statuses, entries):
        token = self.replica.sync_token()
        feed_id = self.server.write(statuses, entries)
        rooms = list(statuses)
        names = [status.name.encode() if status is not None else None for status in statuses.values()]
        if None in names:
            command, reply = room_commands.clear_many(rooms), [7, None, None] * len(rooms)
        else:
            command = room_commands.update_many(statuses)
            reply = [word for name in names for word in (2, name)]
        self.replies.append((token, command.calls(CONTEXT)[0], feed_id, reply))

    def late_snapshot(self, rooms):
        """The read of a wait: on another connection, so its reply may come late."""
        token = self.replica.sync_token()
        feed_id, rooms, reply = self.server.snapshot(rooms)
        call = SNAPSHOT.call(CONTEXT, "ns", rooms, [], range(len(rooms)))
        self.replies.append((token, call, feed_id, reply))

    def deliver(self, which):
        if self.replies:
            self.replica.observe_write(*self.replies.pop(which % len(self.replies)), 0)

    def end_session(self):
        """The follower has lost its connection. The next that it does is the beginning of another session."""
        self.replica.mark_unsynced(["ns"])

    def ensure_session(self):
        if not self.shard.is_followed:
            self.start()

    def read_snapshot(self, rooms):
        self.ensure_session()
        self.replica.snapshot("ns", *self.server.snapshot(rooms), 0)

    def read(self, count):
        self.ensure_session()
        self.replica.read("ns", self.server.after(self.shard.position)[:count], True, 0)
        self.reported += self.replica.take_changes()

    def read_unverified(self):
        """The follower's read of rooms that show a reply from before the resync."""
        self.read_snapshot(list(self.shard.unverified))
        self.reported += self.replica.take_changes()

    def mark_synced(self):
        self.ensure_session()
        self.read_snapshot(set(self.server.rooms) | set(self.shard.unconfirmed()))
        self.read(1000)
        assert not self.shard.unconfirmed()
        self.replica.mark_synced("ns", self.replica.resyncs_wanted)

    def another_server(self, start):
        """Lower or higher ids, and other rooms; replies that are still to come are delivered all the same."""
        self.server = Server(start)
        self.start()

    def check(self):
        if not self.shard.is_followed:
            return  # then own writes are shown without their ids
        for room, at in ids_of(self.shard).items():
            if room not in self.shard.unverified:
                assert self.server.could_be(room, at, self.replica.statuses.get(room)), f"room {room} is none it was"
        ahead = {room for _, room in ahead_of(self.shard)}
        kept = ids_of(self.shard).keys() - self.shard.unverified.keys()
        assert kept <= self.replica.statuses.keys() | ahead, "an absent room is kept for ever"
        assert all(at > self.shard.position for at, _ in ahead_of(self.shard))
        kept = reasons_of(self.shard).keys() - self.shard.unverified.keys()
        assert kept <= self.replica.statuses.keys(), "a reason without its room"


class RankedServer(Server):
    """The same with rooms of three ranks, of which the replica is the first: ``rooms`` are as that one sees them."""

    def __init__(self, start=1):
        super().__init__(start)
        self.table = Table("compat", "none", 1e9, 1e9, 0)
        self.oracles = [*(StoreOracle(self.table, rank, 3) for rank in range(3)), StoreOracle(self.table)]
        self.ranks = {room: [(-1, None, None)] for room in ROOMS}
        """Where the ranks of each room were: (since which id, in which of its lives, their statuses or None)."""
        self.begun = []
        """Lives that the first rank began: each with the id of its entry; None, if another process of it did."""

    def act(self, by, name, rooms, *arguments, is_own=False):
        """An operation on one room after the other in one step, in one entry; its id, and an answer for each."""
        fields, answers, changed_rooms = [], [], []
        for room in rooms:
            before = self.table.rooms.get(room)
            reason = before.reason if before else None
            act = getattr(self, f"_{name}", None) or getattr(self.oracles[by], name)
            answers.append(
                act(*([by] if hasattr(self, f"_{name}") else []), [room] if name == "touch" else room, *arguments)
            )
            there, pair = self.table.rooms.get(room), []
            changed = {
                "clear": lambda answer: answer is not None,  # Failed is falsy
                "touch": bool,
                "record_failure": bool,
                "reopen": bool,
                "replay": bool,
                "replay_cleared": bool,
            }.get(name, lambda answer: answer.changed)
            if not changed(answers[-1]):
                continue
            changed_rooms.append(room)
            if by == 0 and there is not before:
                self.begun.append((there, text_of(self.last + 1).encode() if is_own else None))
            if name not in ("abort", "touch", "record_failure") and by < 3 and there:
                own = there.live.get(by)
                kind = b"rank" if there is before else b"first"
                pair = [b"%s:%d" % (kind, by), own.name.encode() if own is not None else b"absent"]
            if name not in ("clear", "record_failure"):
                fields += [b"ttl_ms", b"900000"]
            fields += [b"%d" % room, there.status.name.encode() if there else b"absent", *pair]
            if there is not before or not there.reason:
                self.reasons.pop(room, None)
            if there and there.reason and (there is not before or there.reason != reason):
                fields += [b"reason", there.reason.encode()]
                self.reasons[room] = self.last + 1, there.reason
        if not fields:
            return None, answers
        self.last += 1
        self.feed.append((text_of(self.last).encode(), fields))
        for room in changed_rooms:
            self._set(room, self.oracles[0].get(room))
        return text_of(self.last).encode(), answers

    def act_own(self, name, rooms, *arguments):
        """A call of the replica's own process, with an entry for each room: its reply has the id of the last."""
        first, feed_id, answers = len(self.begun), None, []
        for room in rooms:
            at, some = self.act(0, name, [room], *arguments, is_own=True)
            feed_id, answers = at or feed_id, answers + some
        self.begun[first:] = [(life, feed_id) for life, _ in self.begun[first:]]
        return feed_id, answers

    def _reopen(self, by, room):
        """Another request opens the room, once it has failed."""
        there = self.table.rooms.get(room)
        if there and there.status is KVPoll.Failed:
            del self.table.rooms[room]
            return self.oracles[by].update_status(room, KVPoll.Bootstrapping).changed
        return False

    def _replay(self, by, room, status):
        """A rank replays the room with a higher generation than it has."""
        self.table.rooms.pop(room, None)
        there = self.oracles[by].create(room)
        self.oracles[by].put(there, status)
        return True

    def _replay_cleared(self, by, room):
        """A rank that ended and cleared replays that to a server which has lost it."""
        there = self.table.rooms.get(room)
        if there is None or by in there.cleared or there.status is KVPoll.Failed:
            return False
        self.oracles[by].put(there, KVPoll.Success)
        there.cleared[by] = there.live.pop(by)
        return True

    def _set(self, room, status):
        super()._set(room, status)
        there = self.table.rooms.get(room)
        self.ranks[room].append((self.last, there, {**there.live, **there.cleared} if there else None))

    def expire(self, room):
        self._set(room, self.oracles[0].get(room))  # so it may still be shown until one has asked
        self.table.rooms.pop(room, None)
        self.reasons.pop(room, None)
        self._set(room, None)

    def snapshot(self, rooms):
        reply = []
        for room in rooms:
            there, status = self.table.rooms.get(room), self.rooms.get(room)
            ranks = [("status", there.live), ("cleared", there.cleared)] if there else []
            words = " ".join(f"{kind}:{rank} {at.name}" for kind, of in ranks for rank, at in of.items())
            words = f"status {there.status.name} {words}" if there else words
            reply += [_name(status), 900_000 if there else -2, words.encode()]
        return text_of(self.last).encode(), list(rooms), reply

    def since(self, room, at):
        """What the ranks of a room were at that id, and have been since."""
        found = self.ranks[room]
        last = max(when for when, _, _ in found if when <= at)
        return [(life, ranks) for when, life, ranks in found if when >= last]

    def ranks_could_be(self, room, at, ranks):
        last = max(when for when, _, _ in self.ranks[room] if when <= at)
        return ranks in [found for when, _, found in self.ranks[room] if when == last]


class RankedRun(Run):
    """A replica of the first of three ranks."""

    def __init__(self):
        super().__init__()
        self.follow()
        self.server = RankedServer()

    def follow(self, is_relevant=anything):
        self.replica = replica_of(is_relevant, rank="0", world_size="3")
        self.replica.notifying = True
        self.shard = self.replica.shards["ns"]

    def others(self, by, name, rooms, *arguments):
        arguments = ("why",) if name == "record_failure" else arguments
        self.server.act(by, name, rooms, *arguments)

    def update(self, by, rooms, status):
        self.server.act(by, "update_status", rooms, status)

    def own(self, rooms, status):
        """What the store itself writes: a status, None to clear, or abort or reopen; the reply is on its way."""
        token = self.replica.sync_token()
        name = {None: "clear", "abort": "abort", "reopen": "reopen"}.get(status, "update_status")
        rooms = rooms if name in ("clear", "update_status") else rooms[:1]
        feed_id, answers = self.server.act_own(name, rooms, *([status] if name == "update_status" else []))
        if feed_id is None:
            return  # nothing was written: its reply has no id
        if name == "clear":
            command = room_commands.clear_many(rooms)
            reply = [word for answer in answers for word in (5 if answer is None else 7, _name(answer), None)]
        elif name == "reopen":
            command, reply = (
                fenced_commands.open(rooms[0], "next", 1, 0),
                [1, b"Bootstrapping", b"1", b"0", None, b"next"],
            )
        else:
            one = room_commands.abort(rooms[0], "why") if name == "abort" else None
            command = one or room_commands.update_many(dict.fromkeys(rooms, status))
            reply = [word for answer in answers for word in (answer.outcome.value, _name(answer.status))]
        self.replies.append((token, command.calls(self.replica.context)[0], feed_id, reply))

    def expire(self, rooms):
        """Remove rooms without an entry in the feed."""
        for room in rooms:
            if room in self.server.table.rooms:
                self.server.expire(room)

    def late_snapshot(self, rooms):
        token = self.replica.sync_token()
        feed_id, rooms, reply = self.server.snapshot(rooms)
        call = self.replica.read_spec.call(self.replica.context, "ns", rooms, [], range(len(rooms)))
        self.replies.append((token, call, feed_id, reply))

    def read_uncertain(self):
        """The follower's read of uncertain rooms."""
        self.read_snapshot(self.replica.uncertain("ns"))
        self.reported += self.replica.take_changes()

    def mark_synced(self):
        self.ensure_session()
        self.read_snapshot(set(self.server.table.rooms) | set(self.shard.unconfirmed()))
        self.read(1000)
        self.read_uncertain()
        assert not self.shard.unconfirmed()
        self.replica.mark_synced("ns", self.replica.resyncs_wanted)

    def another_server(self, start):
        self.server = RankedServer(start)
        self.start()

    def check(self):
        shard = self.shard
        if not shard.is_followed:
            return
        for room, at in ids_of(shard).items():
            if room not in shard.uncertain and room not in shard.unverified:
                assert self.server.could_be(room, at, self.replica.statuses.get(room)), f"room {room} is none it was"
        for room in set(ROOMS) - unread_of(shard) - shard.uncertain.keys() - shard.unverified.keys():
            shown, at = self.replica.ranks.get(room), max(shard.position, read_positions_of(shard).get(room, -1))
            if room in own_writes_of(shard):
                assert self.is_of_one_life(room, at, shown), f"room {room} shows {shown}"
            elif room in ids_of(shard) or shard.synced:
                assert self.server.ranks_could_be(room, at, shown), f"room {room} shows {shown}"
        for room, ranks in self.replica.ranks.items():
            lowest = min(ranks.values())
            agreed = lowest if lowest is KVPoll.Failed or len(ranks) == 3 else KVPoll.Bootstrapping
            assert self.replica.consensus[room] is agreed, f"the consensus of room {room} is not that of {ranks}"
        assert self.replica.consensus.keys() == self.replica.ranks.keys()

        unknown = shard.uncertain.keys() | shard.unverified.keys()
        assert reasons_of(shard).keys() <= self.replica.ranks.keys() | unknown, "a reason without its room"

    def is_of_one_life(self, room, at, shown):
        """Whether the other ranks were as shown at one time, in a life of the room in which this rank was as shown.

        A reply does not show lives that the same rank has begun meanwhile in another process, or by a call of
        another thread whose reply is still to come.
        """
        to_come = {None, *(feed_id for _, _, feed_id, _ in self.replies)}
        unreported = [life for life, feed_id in self.server.begun if feed_id in to_come]
        others = {rank: status for rank, status in shown.items() if rank != 0}
        return any(
            any(life is one for one in unreported)
            or (
                others.items() <= (ranks or {}).items()
                and any(life is one and (found or {}).get(0) is shown[0] for _, one, found in self.server.ranks[room])
            )
            for life, ranks in self.server.since(room, at)
        )


def _name(status):
    return None if status is None else status.name.encode()
