"""Marks: entries of a shard's change feed by which a store recognises how much of its history a server has.

The data of a server that was restarted, or of a promoted replica, is a prefix of the history. So a mark that the feed
still has proves that everything up to it has survived. A feed id alone proves nothing: a server whose clock is behind
may use it again, for another entry.

Invariant: a mark comes from a reply over a connection to the server on which its shard was verified.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol import script_specs as specs
from redis_kvpoll.protocol.feed_ids import number_of
from redis_kvpoll.protocol.rank_commands import outcomes_of
from redis_kvpoll.protocol.script_call import Call

KEPT = 64
"""Heartbeats of a lease: enough to find the last one that a lagging replica has seen."""

_id = attrgetter("id")


class Mark(NamedTuple):
    """An entry of the feed: its id, a room that it names, and a value that it gives that room."""

    feed_id: bytes
    room: int | None
    """None if unknown: then the id alone has to do."""
    value: bytes
    """Its status, a rank's status, or its generation; empty if unknown."""

    @property
    def id(self) -> int:
        """The id in the order of the feed."""
        return number_of(self.feed_id)

    @classmethod
    def of_entry(cls, feed_id: bytes | None, room: bytes, value: bytes) -> Mark | None:
        """Return the mark of an entry that names a room; None if there is none, or it has no feed id."""
        if not feed_id:
            return None
        return cls(feed_id, int(room), value) if room.isdigit() else cls(feed_id, None, b"")

    @classmethod
    def parse(cls, text: bytes) -> Mark | None:
        """Return the mark in a reply of open.lua or replay.lua that appended nothing; None if there was no entry."""
        feed_id, room, status = text.split(b"/", 2)
        return cls.of_entry(feed_id, room, status)

    def __str__(self) -> str:
        """As replay.lua takes it."""
        return f"{self.feed_id.decode()}/{'' if self.room is None else self.room}/{self.value.decode()}"

    def is_in(self, entries: Sequence[Sequence[Any]]) -> bool:
        """Return whether this is the entry with this id, as replay.lua decides it."""
        if self.room is None:
            return bool(entries)
        name, is_named = b"%d" % self.room, False
        for _, fields in entries:
            for word, value in zip(fields[::2], fields[1::2], strict=False):
                if word.isdigit():
                    is_named = word == name
                if is_named and self.value in (b"", value):
                    return True
        return False


class ShardMarks:
    """The marks of one shard: the ends of its feed at the last heartbeats, and the store's last write."""

    __slots__ = ("last_write", "tails")

    def __init__(self) -> None:
        self.tails: deque[Mark] = deque(maxlen=KEPT)
        self.last_write: Mark | None = None

    def all(self) -> list[Mark]:
        """The oldest first."""
        marks, last = list(self.tails), self.last_write
        return sorted([*marks, last] if last else marks, key=_id)

    def keep_until(self, last: Mark | None) -> None:
        """Drop the marks after ``last``, which another server does not have; all if there is none."""
        kept = [] if last is None else [mark for mark in self.tails if mark.id <= last.id]
        self.tails, self.last_write = deque(kept, KEPT), last


def last_present(marks: Sequence[Mark], found: Sequence[Sequence[Any]], first_id: bytes | None) -> Mark | None:
    """Return the last of the marks that a server has, with all before it; None if it has none.

    ``found`` are the entries at their ids, ``first_id`` is that of the feed's first entry: what is below was trimmed.
    One that is present behind one that is not is another entry, with an id that was used again.
    """
    kept, first = None, Mark(first_id or b"0-0", None, b"").id
    for mark, entries in zip(marks, found, strict=True):
        if mark.is_in(entries):
            kept = mark
        elif mark.id >= first:
            break
    return kept


class Answer(NamedTuple):
    """What a server said of a shard when it was asked by ``questions``."""

    marks: Sequence[Mark]
    """The marks that were asked for, the oldest first."""
    server: bytes | None
    epoch: bytes | None
    first_id: bytes | None
    """That of the feed's first entry; None if there is no feed."""
    found: Sequence[Sequence[Any]]
    """The entries at the ids of the marks."""

    @classmethod
    def parse(cls, marks: Sequence[Mark], server: bytes | None, replies: Sequence[Any]) -> Answer:
        """Return the answer in the replies to ``questions``."""
        epoch, first, *found = replies
        return cls(marks, server, epoch, first[0][0] if first else None, found)

    @property
    def kept(self) -> Mark | None:
        """The last of the marks that the server has, with all before it."""
        return last_present(self.marks, self.found, self.first_id)


@dataclass(slots=True)
class ShardState:
    """What a store knows of one shard."""

    epoch: bytes | None = None
    renew_leases_at: float = 0.0
    """When the next replay of rooms renews the leases first, in monotonic seconds."""
    answer: Answer | None = None
    """What a server said of it when another shard was verified there; its own verification may use it once."""
    marks: ShardMarks = field(default_factory=ShardMarks)


def questions(tag: str, marks: Sequence[Mark]) -> list[list[str]]:
    """Return the commands that ask a server for a shard's epoch, and how much of its history there is."""
    feed = keys.feed(tag)
    entries = [["XRANGE", feed, mark.feed_id.decode(), mark.feed_id.decode()] for mark in marks]
    return [["HGET", keys.epoch(tag), "epoch"], ["XRANGE", feed, "-", "+", "COUNT", "1"], *entries]


def mark_of(call: Call, feed_id: bytes, reply: Sequence[Any]) -> Mark | None:
    """Return the mark of the last entry that a call has appended; None if it changed nothing.

    A script appends all its entries in one step. So one mark stands for every room that the call has changed.
    """
    spec = call.spec
    if spec.script is specs.TOUCH.script or (spec.script is specs.REPLAY.script and "cleared" in call.room_args):
        return Mark(feed_id, None, b"")
    if spec is specs.WRITE_RANKS:
        return _mark_of_ranks(call, feed_id, reply)
    if spec.reply[0] != "outcome":
        return None
    for at in range(len(call.rooms) - 1, -1, -1):
        outcome = reply[at * len(spec.reply)]
        if outcome in specs.WRITTEN:
            return Mark(feed_id, call.rooms[at], reply[at * len(spec.reply) + 1] or b"")
        if outcome in specs.CLEARED:
            return Mark(feed_id, call.rooms[at], b"absent")
    return None


def _mark_of_ranks(call: Call, feed_id: bytes, reply: Sequence[Any]) -> Mark | None:
    """Return the mark of the last entry of a call of WRITE_RANKS: of the last rank of the last room that it changed."""
    for room, outcomes in zip(reversed(call.rooms), reversed(reply), strict=True):
        for code, text in reversed(outcomes_of(outcomes)):
            if code in specs.WRITTEN or code in specs.CLEARED:
                return Mark(feed_id, room, b"absent" if code in specs.CLEARED else text)
    return None
