"""One of the servers that do the same, with its stores: fakeredis, or a real one. And how time passes there.

On fakeredis the clock is moved. On a real server all deadlines come nearer: TTLs, and the times in the leases. What
the stores remember (when a room expires, when to touch) is in this process's clock, which cannot be moved, and comes
nearer too.
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
"""After a replay, a room's version continues from the server's time in microseconds: all such versions count as one."""


UNKNOWN_TO_ORACLE = {"opened", "replayed"}
"""Fields of rooms that serve recovery only."""


def version_of(number):
    return min(number, AFTER_A_LOSS)


class Side:
    """The stores on one server. Generations are replaced by the oracle's numbers."""

    def __init__(self, server, client, store_client, options, flavour):
        client.flushall()
        self.server, self.client = server, client
        self.runner = asyncio.Runner() if flavour == "async" else None
        self.tags = keys.tags(NAMESPACE, options[0]["shards"])
        self.losses = 0
        self.begin()
        if self.runner:
            self.stores = [Blocking(AsyncStatusStore(store_client, **one), self.runner) for one in options]
        else:
            self.stores = [StatusStore(store_client, **one) for one in options]
        self.tracked_rooms = [None] * len(self.stores)
        """The lease of each store, in steps."""
        self.incarnations = {}

    def begin(self):
        """Write an epoch that is older than any lease, and differs from the one before."""
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
        for store, held in zip(self.stores, self.tracked_rooms, strict=True):
            age_settings(store, seconds)
            tracked_rooms = tracked_rooms_of(store)
            tracked_rooms.awaiting_shards = {tag: at - seconds for tag, at in tracked_rooms.awaiting_shards.items()}
            for tag in self.tags:
                for tracked in tracked_rooms.in_shard(tag).values():
                    tracked.until -= seconds
                    tracked.awaiting_since = tracked.awaiting_since and tracked.awaiting_since - seconds
            if held:
                make_touch_due(held.keeper, seconds)

    def lose_all(self, order, spare):
        """Delete all data. Then every process calls three times in turn, so that attached rooms find their creators."""
        self.client.flushall()
        self.begin()
        for seconds in (0, 1, 11):
            self.remember_less(seconds)
            for by in order:
                for room in spare:
                    try:
                        self.stores[by].attach(room)
                    except KVPollError:
                        continue

    def break_connections(self):
        if not self.server.is_fake:
            self.client.client_kill_filter(_type="normal", skipme=True)

    def forget_scripts(self):
        self.client.script_flush()

    # Leases, heartbeat by heartbeat

    def take(self, by, name, ttl, heartbeat):
        held = leasing.ManualLease(self.stores[by], name, ttl, heartbeat).take()
        self.tracked_rooms[by] = held
        self.incarnations[int(held.incarnation)] = len(self.incarnations) + 1

    def send_heartbeat(self, by):
        self.forget_sweeps()
        self.tracked_rooms[by].heartbeat()
        return self.tracked_rooms[by].lost

    def forget_sweeps(self):
        """Let the next sweep look at all leases."""
        for tag in self.tags:
            self.client.hdel(keys.leases(tag), "last sweep")

    def listed(self, room):
        """The oracle's number of the incarnation by which a room is listed."""
        scores = [self.client.zscore(keys.owned(tag), str(room)) for tag in self.tags]
        found = [int(score) for score in scores if score is not None]
        return self.incarnations[found[0]] if found else None

    def release(self, by):
        self.tracked_rooms[by].release()
        self.tracked_rooms[by] = None

    # The data

    def life(self, room, generation, expected):
        """The oracle's number of a generation: the same number for the same, and those of a room grow."""
        known = self.lives.setdefault(room, {})
        if generation not in known:
            assert not known or generation > max(known), f"generation {generation} of room {room} after {max(known)}"
            known[generation] = expected
        return known[generation]

    def table(self, world):
        """All rooms and lengths as redis-cli would show them, without times."""
        rooms, lengths = {}, {}
        for tag in self.tags:
            for key in self.client.scan_iter(f"kvpoll:{{{tag}}}:[rp]*:*", count=1000):
                fields, room = self.client.hgetall(key), int(key.rpartition(":")[2])
                fields = {
                    name: value
                    for name, value in fields.items()
                    if name not in UNKNOWN_TO_ORACLE and name[-3:] != "_ms"
                }
                there, found = (world.rooms, rooms) if ":room:" in key else (world.lengths, lengths)
                if "generation" in fields:
                    lives = [kept[room].life for kept in (there, world.rooms) if room in kept]  # SCAN has no order
                    fields["generation"] = self.life(room, int(fields["generation"]), lives[0] if lives else None)
                if "version" in fields:
                    fields["version"] = str(version_of(int(fields["version"])))
                for name, value in fields.items():
                    if name == "incarnation" or name.startswith("by:"):
                        fields[name] = self.incarnations[int(value)]
                found[room] = fields, self.client.pttl(key) / 1000
        return rooms, lengths

    def feed_table(self):
        """The table as it follows from the feed alone: {room: (status, reason, seconds left)}."""
        return {room: tuple(there) for room, there in self.replay.read_on().table.items()}
