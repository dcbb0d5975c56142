"""One server, fakeredis or a real one, with its stores; and how time passes there.

On fakeredis the clock is moved. On a real server, TTLs and the times in leases are shortened instead, and so are the
times that the stores keep by this process's clock (the end of a room's TTL, the next touch).
"""

from __future__ import annotations

import asyncio

from redis_kvpoll import AsyncStatusStore, KVPollError, StatusStore
from redis_kvpoll.protocol import keys
from tests.support import leasing
from tests.support.blocking import Blocking
from tests.support.feeds import Replay
from tests.support.internals import age_settings, make_touch_due, tracked_rooms_of

NAMESPACE = "default"


AFTER_A_LOSS = 10**15
"""After a replay, a version continues at the server's time in microseconds; all such versions count as equal."""


def version_of(number):
    return min(number, AFTER_A_LOSS)


class Side:
    """The stores on one server. Generations have the oracle's numbers."""

    def __init__(self, server, client, store_client, options, flavour):
        client.flushall()
        self.server, self.client = server, client
        self.runner = asyncio.Runner() if flavour == "async" else None
        self.tags = keys.tags(NAMESPACE, options[0]["shards"])
        self.losses = 0
        self.begin()
        if self.runner:
            self.stores = [Blocking(AsyncStatusStore(store_client, **each), self.runner) for each in options]
        else:
            self.stores = [StatusStore(store_client, **each) for each in options]
        self.leases = [None] * len(self.stores)
        """The ManualLease of each store."""
        self.incarnations = {}

    def begin(self):
        """Create epochs that are older than any lease, and differ from the previous ones."""
        self.losses += 1
        for tag in self.tags:
            self.client.hset(keys.epoch(tag), "epoch", f"1700000000000000-{self.losses}")
            self.client.pexpire(keys.epoch(tag), 30 * 86_400_000)
        self.replay = Replay(self.client, self.tags)
        self.lives = {}

    def close(self):
        for store in self.stores:
            store.close()
        if self.runner:
            self.runner.close()

    # Time, and what else may happen

    def pass_time(self, seconds, clock):
        if self.server.is_fake:
            clock.shift(seconds)
        else:
            leasing.pass_time(self.client, seconds, self.tags)
            for key in self.client.scan_iter(count=1000):
                left = self.client.pttl(key) - seconds * 1000
                self.client.pexpireat(key, 1) if left <= 0 else self.client.pexpire(key, left)
        self.replay.pass_time(seconds)
        self.remember_less(seconds)

    def remember_less(self, seconds):
        for store, lease in zip(self.stores, self.leases, strict=True):
            age_settings(store, seconds)
            tracked_rooms = tracked_rooms_of(store)
            tracked_rooms.awaiting_shards = {tag: at - seconds for tag, at in tracked_rooms.awaiting_shards.items()}
            for tag in self.tags:
                for tracked in tracked_rooms.in_shard(tag).values():
                    tracked.until -= seconds
                    tracked.awaiting_since = tracked.awaiting_since and tracked.awaiting_since - seconds
            if lease:
                make_touch_due(lease.keeper, seconds)

    def lose_all(self, order, spare):
        """Delete all data. Then each store makes a call, three times in turn, so that creators replay for others."""
        self.client.flushall()
        self.begin()
        for seconds in (0, 1, 11):
            self.remember_less(seconds)
            for who in order:
                for room in spare:
                    try:
                        self.stores[who].attach(room)
                    except KVPollError:
                        continue

    def break_connections(self):
        if not self.server.is_fake:
            self.client.client_kill_filter(_type="normal", skipme=True)

    def forget_scripts(self):
        self.client.script_flush()

    # Leases

    def take(self, who, name, ttl, heartbeat):
        lease = leasing.ManualLease(self.stores[who], name, ttl, heartbeat).take()
        self.leases[who] = lease
        self.incarnations[int(lease.incarnation)] = len(self.incarnations) + 1

    def send_heartbeat(self, who):
        for tag in self.tags:
            self.client.hdel(keys.leases(tag), "last sweep")
        self.leases[who].heartbeat()
        return self.leases[who].lost

    def give_up(self, who):
        self.leases[who].give_up()
        self.leases[who] = None

    # What is there

    def life(self, room, generation, expected):
        """Return the oracle's number of a generation. A room's generations must grow."""
        known = self.lives.setdefault(room, {})
        if generation not in known:
            assert not known or generation > max(known), f"generation {generation} of room {room} after {max(known)}"
            known[generation] = expected
        return known[generation]

    def table(self, world):
        """Return all rooms and lengths as redis-cli shows them, without times."""
        rooms, lengths = {}, {}
        for tag in self.tags:
            for key in self.client.scan_iter(f"kvpoll:{{{tag}}}:[rp]*:*", count=1000):
                fields, room = self.client.hgetall(key), int(key.rpartition(":")[2])
                fields = {name: value for name, value in fields.items() if not name.endswith("_ms")}
                there, found = (world.rooms, rooms) if ":room:" in key else (world.lengths, lengths)
                if "generation" in fields:
                    expected = there[room].life if room in there else None
                    fields["generation"] = self.life(room, int(fields["generation"]), expected)
                if "version" in fields:
                    fields["version"] = str(version_of(int(fields["version"])))
                if "incarnation" in fields:
                    fields["incarnation"] = self.incarnations[int(fields["incarnation"])]
                found[room] = fields, self.client.pttl(key) / 1000
        return rooms, lengths

    def table_from_feed(self):
        """Return the table as the feed alone gives it: {room: (status, reason, remaining seconds)}."""
        return {room: tuple(there) for room, there in self.replay.read_on().table.items()}
