"""A local copy driven by hand: the server it follows, and the replies that are still on their way."""

from __future__ import annotations

import contextlib

from redis_kvpoll import commands
from redis_kvpoll.commands.shapes import SNAPSHOT
from redis_kvpoll.mirror.replica import Replica
from redis_kvpoll.mirror.shard import number_of, text_of
from tests.layouts import layout
from tests.ranked import Speaker, Table

LAYOUT = layout()
ROOMS = range(5)


def anything(room):
    return True


def replica_of(wants=anything, **changes):
    return Replica(layout(**changes), contextlib.nullcontext(), wants)


class Server:
    """One shard of a server as the scripts would leave it: the rooms, and the feed of what changed."""

    def __init__(self, start=1):
        self.last = start << 64
        self.rooms = {}
        self.feed = []
        self.history = {room: [(-1, None)] for room in ROOMS}

    def write(self, statuses, entries=1):
        """Change rooms in one step, in so many entries; the id of the last."""
        items = list(statuses.items())
        for at in range(0, len(items), -(-len(items) // entries)):
            self.last += 1
            fields = [b"ttl_ms", b"900000"]
            for room, status in items[at : at + -(-len(items) // entries)]:
                fields += [b"%d" % room, status.name.encode() if status is not None else b"absent"]
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
        """Gone, and no entry says so."""
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
        self.replica.telling = True
        self.server = Server()
        self.replies = []
        self.told = []

    def start(self):
        self.replica.begin("ns", text_of(self.server.last).encode(), 0)

    def own(self, statuses, entries):
        mark = self.replica.departing()
        feed_id = self.server.write(statuses, entries)
        rooms = list(statuses)
        names = [status.name.encode() if status is not None else None for status in statuses.values()]
        if None in names:
            command, reply = commands.clear_many(rooms), [7, None, None] * len(rooms)
        else:
            command = commands.update_many(statuses)
            reply = [word for name in names for word in (2, name)]
        self.replies.append((mark, command.calls(LAYOUT)[0], feed_id, reply))

    def late_look(self, rooms):
        """What a wait reads: over another connection, so that its reply may be late."""
        mark = self.replica.departing()
        feed_id, rooms, reply = self.server.snapshot(rooms)
        call = SNAPSHOT.call(LAYOUT, "ns", rooms, [], range(len(rooms)))
        self.replies.append((mark, call, feed_id, reply))

    def deliver(self, which):
        if self.replies:
            self.replica.wrote(*self.replies.pop(which % len(self.replies)), 0)

    def look(self, rooms):
        self.replica.snapshot("ns", *self.server.snapshot(rooms), 0)

    def read(self, count):
        self.replica.read("ns", self.server.after(self.shard.position)[:count], True, 0)
        self.told += self.replica.take_changes()

    def confirm(self):
        self.look(set(self.server.rooms) | set(self.shard.unconfirmed()))
        self.read(1000)
        assert not self.shard.unconfirmed()
        self.replica.confirm("ns", self.replica.suspicions)

    def another_server(self, start):
        """Lower ids or higher, and other rooms; the replies that are on their way come all the same."""
        self.server = Server(start)
        self.start()

    def check(self):
        for room, at in self.shard._ids.items():
            assert self.server.could_be(room, at, self.replica.statuses.get(room)), f"room {room} is none it ever was"
        ahead = {room for _, room in self.shard._ahead}
        assert self.shard._ids.keys() <= self.replica.statuses.keys() | ahead, "an absent room is kept for ever"
        assert all(at > self.shard.position for at, _ in self.shard._ahead)


class RankedServer(Server):
    """The same with rooms of three ranks, of which the replica is the first: ``rooms`` are as that one sees them."""

    def __init__(self, start=1):
        super().__init__(start)
        self.table = Table("compat", "none", 1e9, 1e9, 0)
        self.speakers = [*(Speaker(self.table, rank, 3) for rank in range(3)), Speaker(self.table)]

    def act(self, who, name, rooms, *arguments):
        """An operation on one room after the other in one step, in one entry; its id, and an answer for each."""
        speaker, fields, answers = self.speakers[who], [], []
        for room in rooms:
            answers.append(getattr(speaker, name)([room] if name == "touch" else room, *arguments))
            there, pair = self.table.rooms.get(room), []
            changed = {
                "clear": lambda answer: answer is not None,  # Failed is falsy
                "touch": bool,
                "record_failure": bool,
            }.get(name, lambda answer: answer.changed)
            if not changed(answers[-1]):
                continue
            if name in ("update_status", "clear") and who < 3 and there:
                own = there.live.get(who)
                pair = [b"rank:%d" % who, own.name.encode() if own is not None else b"absent"]
            if name in ("update_status", "abort", "touch"):
                fields += [b"ttl_ms", b"900000"]
            fields += [b"%d" % room, there.status.name.encode() if there else b"absent", *pair]
            if name in ("abort", "record_failure"):
                fields += [b"reason", b"why"]
        if not fields:
            return None, answers
        self.last += 1
        self.feed.append((text_of(self.last).encode(), fields))
        for room in rooms:
            self._set(room, self.speakers[0].get(room))
        return text_of(self.last).encode(), answers

    def expire(self, room):
        self.table.rooms.pop(room, None)
        super().expire(room)


class RankedRun(Run):
    """A replica of the first of three ranks."""

    def __init__(self):
        super().__init__()
        self.replica = replica_of(rank="0", world_size="3")
        self.replica.telling = True
        self.shard = self.replica.shards["ns"]
        self.server = RankedServer()

    def others(self, who, name, rooms):
        arguments = ("why",) if name == "record_failure" else ()
        self.server.act(who, name, rooms, *arguments)

    def update(self, who, rooms, status):
        self.server.act(who, "update_status", rooms, status)

    def own(self, rooms, status):
        """What the store itself writes: a status, None to clear, or abort; the reply is on its way."""
        mark = self.replica.departing()
        name = {None: "clear", "abort": "abort"}.get(status, "update_status")
        rooms = rooms[:1] if name == "abort" else rooms
        feed_id, answers = self.server.act(0, name, rooms, *([status] if name == "update_status" else []))
        if feed_id is None:
            return  # nothing was written: its reply has no id
        if name == "clear":
            command, reply = commands.clear_many(rooms), [w for a in answers for w in (7 if a else 5, _name(a), None)]
        else:
            one = commands.abort(rooms[0], "why") if name == "abort" else None
            command = one or commands.update_many(dict.fromkeys(rooms, status))
            reply = [word for answer in answers for word in (answer.outcome.value, _name(answer.status))]
        self.replies.append((mark, command.calls(self.replica.layout)[0], feed_id, reply))

    def late_look(self, rooms):
        mark = self.replica.departing()
        feed_id, rooms, reply = self.server.snapshot(rooms)
        call = SNAPSHOT.call(self.replica.layout, "ns", rooms, [], range(len(rooms)))
        self.replies.append((mark, call, feed_id, reply))

    def ask(self):
        """What the follower reads when it has read on in the feed."""
        self.look(self.replica.uncertain("ns"))
        self.told += self.replica.take_changes()

    def confirm(self):
        self.look(set(self.server.rooms) | set(self.shard.unconfirmed()))
        self.read(1000)
        self.ask()
        assert not self.shard.unconfirmed()
        self.replica.confirm("ns", self.replica.suspicions)

    def another_server(self, start):
        self.server = RankedServer(start)
        self.start()

    def check(self):
        for room, at in self.shard._ids.items():
            if room not in self.shard.uncertain:
                assert self.server.could_be(room, at, self.replica.statuses.get(room)), f"room {room} is none it was"


def _name(status):
    return None if status is None else status.name.encode()
