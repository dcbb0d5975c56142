"""A store and an oracle side by side: each operation is done on both, and then the whole table is compared."""

from __future__ import annotations

import contextlib
import dataclasses

import time_machine

from redis_kvpoll import Entry, KVTransferError, RoomNotFoundError
from redis_kvpoll.protocol import keys
from tests.support.feeds import Replay
from tests.support.oracle import Oracle

# Time passes in whole steps and TTLs end half-way between two: no key is read in its last moment.
STEP = 100
START = 1_800_000_000

TTL, TERMINAL = 1050, 450


class Bench:
    """A store and an oracle with the same settings, over one server that is empty."""

    def __init__(self, server, client, store, policy, mode, shards):
        client.flushall()
        self.server, self.client, self.store = server, client, store
        self.namespace, self.shards = f"{policy}-{mode}-{shards}", shards
        self.oracle = Oracle(policy, mode, TTL, TERMINAL, START)
        self.replay = Replay(client, keys.tags(self.namespace, shards))
        self.clock = None

    def run(self, operations):
        with time_machine.travel(START, tick=False) if self.server.is_fake else contextlib.nullcontext() as self.clock:
            for name, *args in operations:
                if name == "pass_time":
                    self.pass_time(*args)
                else:
                    expected, found = answer(self.oracle, name, args), answer(self.store, name, args)
                    assert self.comparable(found) == self.comparable(expected), (name, args)
                assert self.on_server() == self.in_oracle(), (name, args)
                assert self.in_feed() == self.feed_of_oracle(), (name, args)

    def pass_time(self, seconds):
        self.oracle.pass_time(seconds)
        self.replay.pass_time(seconds)
        if self.clock:
            self.clock.shift(seconds)
            return
        for key in self.client.scan_iter("kvpoll:{*}:[rp]*"):
            left = self.client.pttl(key) - seconds * 1000
            if left > 0:
                self.client.pexpire(key, left)
            else:
                self.client.pexpireat(key, 1)

    def on_server(self):
        names = [
            name
            for name in self.client.scan_iter(count=100)
            if not name.endswith((":settings", ":feed", ":failed", ":epoch", ":owned", ":refused"))
        ]
        pipeline = self.client.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(name).pttl(name)
        replies = iter(pipeline.execute())
        return {name: (self.shown(next(replies)), self.seconds(next(replies) / 1000)) for name in names}

    def in_oracle(self):
        table = {}
        for number, there in self.oracle.table.items():
            fields = {"status": there.status.name, "reason": there.reason}
            fields |= {"opened_ms": str(int(there.opened * 1000)), "updated_ms": str(int(there.updated * 1000))}
            fields = {name: value for name, value in fields.items() if value is not None}
            name = keys.rooms(self.tag(number), [number])[0]
            table[name] = (self.shown(fields), self.seconds(there.expires - self.oracle.now))
        for number, prefix in self.oracle.prefixes.items():
            name = keys.prefixes(self.tag(number), [number])[0]
            table[name] = ({"length": str(prefix.length)}, self.seconds(prefix.expires - self.oracle.now))
        return table

    def in_feed(self):
        """The table as it follows from the feed alone."""
        table = self.replay.read_on().table
        return {room: (status, reason, self.seconds(left)) for room, (status, reason, left) in table.items()}

    def feed_of_oracle(self):
        now = self.oracle.now
        return {
            room: (there.status, there.reason, self.seconds(there.expires - now))
            for room, there in self.oracle.table.items()
        }

    def tag(self, number):
        return keys.tag(self.namespace, self.shards, number)

    def shown(self, fields):
        """A room's fields; on a real server without the times, which are that server's own."""
        fields = {name: value for name, value in fields.items() if name != "generation"}
        if self.server.is_fake:
            return fields
        return {name: value for name, value in fields.items() if not name.endswith("_ms")}

    def seconds(self, left):
        """Seconds of a TTL; on a real server, whose clock goes on meanwhile, in whole steps."""
        return left if self.server.is_fake else left // STEP

    def comparable(self, value):
        if isinstance(value, Entry):
            value = dataclasses.replace(value, generation=None)
            if not self.server.is_fake:
                value = dataclasses.replace(value, opened_at=0, updated_at=0, ttl=self.seconds(value.ttl))
        return value


def answer(table, name, args):
    try:
        found = getattr(table, name)(*args)
    except (RoomNotFoundError, KVTransferError) as error:
        return type(error), error.args
    if name == "rooms":
        listed = list(found)
        assert len(listed) == len(set(listed))
        return set(listed)
    return found
