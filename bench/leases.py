"""What leases cost the server: the heartbeats of many owners, and a start beside them.

Each owner has a connection of its own, and sends what a store's lease sends.
"""

from __future__ import annotations

import threading
import time

import redis

from bench.ground import Ground
from bench.measure import Spread
from bench.results import Budget, Row, Section
from redis_kvpoll.protocol import keys, lease_commands
from redis_kvpoll.protocol.lease_commands import LeaseConfig
from redis_kvpoll.protocol.script_call import Call, CallContext

SHARDS = 8
ROUNDS = 20
STARTS = 150
SHARE_BUDGET = Budget(0.03)
START_BUDGET = Budget(3.0)
SLOWER_BUDGET = Budget(1.5)


class _Owner:
    """A lease, with a connection of its own."""

    def __init__(self, ground: Ground, table: str, name: str) -> None:
        self._client: redis.Redis = ground.plain()
        self._config = LeaseConfig.checked(name, 5.0, None)
        self._context = CallContext(
            ttl_ms="900000",
            terminal_ttl_ms="300000",
            nonce=name,
            namespace=f"{ground.id}.{table}",
            shards=SHARDS,
            policy="compat",
            mode="none",
            feed_length="100000",
        )
        self._tags = keys.tags(self._context.namespace, SHARDS)
        self._incarnation = ""
        self._visited = 0.0

    def start(self) -> None:
        first, *others = self._tags
        reply = self._send(self._config.call(self._context, first, "take", ""))
        self._incarnation = reply[5].decode()
        for tag in others:
            self._send(self._config.call(self._context, tag, "extend", self._incarnation))

    def beat(self, now: float) -> None:
        """Send a heartbeat of a moment, with the visits to the other shards that are due by then."""
        tags = self._tags[:1]
        if now >= self._visited + lease_commands.AWAY_INTERVAL * self._config.ttl:
            self._visited, tags = now, self._tags
        for tag in tags:
            reply = self._send(self._config.heartbeat_call(self._context, tag, self._incarnation))
            if not lease_commands.is_settled(reply[4:]):
                self._send(self._config.call(self._context, tag, "renew", self._incarnation))

    def close(self) -> None:
        self._client.close()

    def set_visited(self, at: float) -> None:
        self._visited = at

    @property
    def interval(self) -> float:
        return self._config.interval

    def _send(self, call: Call) -> list[bytes]:
        reply: list[bytes] = self._client.execute_command(*call.words())
        return reply


def measure(ground: Ground, count: int) -> Section:
    """The cost of ``count`` owners, with 8 shards."""
    section = Section("leases", f"Leases of {count:,} owners on the server, {SHARDS} shards", "", ours="figure")
    for spec in (lease_commands.LEASE, lease_commands.RENEW):
        ground.client.script_load(spec.script.source)
    alone = _starts(ground, "alone")
    owners = [_Owner(ground, "leases", f"owner-{number}") for number in range(count)]
    before = _cpu(ground)
    for owner in owners:
        owner.start()
    start_ms = (_cpu(ground) - before) / count * 1000
    share = _share(ground, owners)
    beside = _starts(ground, "leases")
    for owner in owners:
        owner.close()
    shares = Row("heartbeats, share of one CPU", "", "ratio", None, None, share, SHARE_BUDGET)
    starts = Row("a start, CPU of the server", "", "ms", start_ms, None, Spread(*[start_ms] * 3), START_BUDGET)
    slower = Spread(*[beside / alone] * 3)
    many = Row(f"{STARTS} starts at once / beside no owner", "", "ratio", None, None, slower, SLOWER_BUDGET)
    section.rows = [shares, starts, many]
    return section


def _share(ground: Ground, owners: list[_Owner]) -> Spread:
    """The share of one CPU that heartbeats take: as many as there are in a time, over that time."""
    interval = owners[0].interval
    period = lease_commands.AWAY_INTERVAL * interval / lease_commands.INTERVAL
    for number, owner in enumerate(owners):
        owner.set_visited(-period * number / len(owners))  # visits are spread over their interval
    shares = []
    for at in range(ROUNDS):
        before = _cpu(ground)
        for owner in owners:
            owner.beat(at * interval)
        shares.append((_cpu(ground) - before) / interval)
    return Spread.of(shares)


def _starts(ground: Ground, table: str) -> float:
    """Seconds until the last of many that start at once has its lease."""
    owners = [_Owner(ground, table, f"start-{number}") for number in range(STARTS)]
    threads = [threading.Thread(target=owner.start) for owner in owners]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    for owner in owners:
        owner.close()
    return took


def _cpu(ground: Ground) -> float:
    found = ground.client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])
