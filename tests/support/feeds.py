"""Reads the feed of a shard, rebuilds the table from it, and runs a tail round by round."""

from __future__ import annotations

from redis_kvpoll import KVPoll
from redis_kvpoll.engine.reads import read_feed
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.feed import changes
from tests.support.internals import executor_of, run

# Not by xrange(), which would make a dict of the fields: they have an order, and a name may come twice.
_READ = "return redis.call('XRANGE', KEYS[1], ARGV[1], '+')"


def entries(client, tag="default", after=None, key=None):
    """[(id, [name, value, ...])] of a feed, or of another stream, as bytes."""
    start = "-" if after is None else f"({_text(after)}"
    reply = client.eval(_READ, 1, key or keys.feed(tag), start)
    return [(_bytes(entry_id), [*map(_bytes, fields)]) for entry_id, fields in reply]


def words(client, tag="default"):
    """The names and values of each entry, as text."""
    return [[word.decode() for word in fields] for _, fields in entries(client, tag)]


def a_round(store, tail):
    """What a Tail finds in one read of all shards, without waiting first."""
    tail.pause = 0.0
    while run(store, read_feed(executor_of(store), "tail", tail)):
        pass
    return tail.news()


class Replay:
    """The table as it follows from the feed alone: {room: [status, reason, seconds left]}."""

    def __init__(self, client, tags=("default",)):
        self.table = {}
        self._client = client
        self._last = dict.fromkeys(tags)

    def read_on(self):
        for tag, last in self._last.items():
            for entry_id, fields in entries(self._client, tag, last):
                self._last[tag] = entry_id
                for change in changes(entry_id, fields):
                    self._apply(change)
        return self

    def pass_time(self, seconds):
        self.read_on()
        for room, there in list(self.table.items()):
            there[2] -= seconds
            if there[2] <= 0:
                del self.table[room]

    def _apply(self, change):
        if change.status is None:
            self.table.pop(change.room)
            return
        there = self.table.setdefault(change.room, [change.status, None, None])
        if there[0] is KVPoll.Failed and change.status is not KVPoll.Failed:
            there[1] = None
        there[0] = change.status
        there[1] = change.reason or there[1]
        there[2] = there[2] if change.ttl is None else change.ttl


def _bytes(value):
    return value.encode() if isinstance(value, str) else value


def _text(value):
    return value.decode() if isinstance(value, bytes) else value
