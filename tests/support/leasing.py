"""Leases without their threads: heartbeats are sent one by one, and time passes by making records older."""

from __future__ import annotations

import math
import re

from redis_kvpoll.engine.leases import reaper
from redis_kvpoll.engine.leases.lease import LeaseKeeper
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.lease_commands import LeaseConfig
from tests.support.internals import context_of, executor_of, run

NS = "default"
LOST = "owner prefill-0 lost"


class ManualLease:
    """A lease of a store, in steps."""

    def __init__(self, store, name="prefill-0", ttl=5.0, heartbeat=None):
        self.store = store
        self.keeper = LeaseKeeper(executor_of(store), LeaseConfig.checked(name, ttl, heartbeat))

    def take(self):
        run(self.store, self.keeper.take())
        return self

    def heartbeat(self):
        run(self.store, self.keeper.send_heartbeat())
        return self

    def release(self):
        run(self.store, self.keeper.release())

    @property
    def lost(self):
        return self.keeper.lost

    @property
    def incarnation(self):
        return self.keeper.incarnation


def record(client, name="prefill-0", tag=NS):
    """[incarnation, ttl_ms, heartbeat_ms, last_heartbeat_ms, suspected_ms] of a lease, or None."""
    found = client.hget(keys.leases(tag), name)
    return found and [int(word) for word in found.split()]


def now_ms(client):
    """The server's time."""
    seconds, micros = client.time()
    return seconds * 1000 + micros // 1000


def pass_time(client, seconds, tags=(NS,)):
    """Make every heartbeat, every suspicion, every due time and the last gap so much older."""
    for tag in tags:
        leases, due = client.hgetall(keys.leases(tag)), client.zrange(keys.due(tag), 0, -1)
        with client.pipeline() as pipe:
            for name, value in leases.items():
                if re.fullmatch(r"\d+ \d+ \d+ \d+ \d+", value):
                    *words, last_heartbeat, suspected = map(int, value.split())
                    older = [last_heartbeat - seconds * 1000, suspected and suspected - seconds * 1000]
                    pipe.hset(keys.leases(tag), name, " ".join(str(int(word)) for word in (*words, *older)))
                elif name == "last sweep":
                    pipe.hset(keys.leases(tag), name, int(int(value) - seconds * 1000))
                elif name == "last gap":
                    ended, length = map(int, value.split())
                    pipe.hset(keys.leases(tag), name, f"{int(ended - seconds * 1000)} {length}")
            for member in due:
                pipe.zincrby(keys.due(tag), -seconds * 1000, member)
            pipe.execute()


def begin_long_ago(client, tags=(NS,)):
    """Give shards an epoch that is older than any lease."""
    for tag in tags:
        client.hset(keys.epoch(tag), "epoch", "1700000000000000-old")
        client.pexpire(keys.epoch(tag), 3600_000)


def reap_lost(store, lost, until=math.inf):
    return run(store, reaper.reap_lost(executor_of(store), context_of(store), lost, until))


def die(client, store, seconds=10.0, until_lost=2.0):
    """Let a holder's heartbeats end and two sweeps detect it. Returns how many rooms failed."""
    pass_time(client, seconds)
    assert store.reap() == 0
    pass_time(client, until_lost)
    return store.reap()
