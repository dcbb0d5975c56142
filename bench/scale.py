"""Whether a table of a million rooms is as fast as one of a thousand, beside plain keys in the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import redis

from bench.ground import TTL, Ground
from bench.measure import Contender, Spread, Times, interleave, ratio
from bench.results import Budget, Row, Section
from redis_kvpoll import KVPoll, StatusStore

BUDGET = Budget(1.5)

_LIFE = (KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Transferring, KVPoll.Transferring, KVPoll.Success)
_BATCH = 1000
_ROOMS_A_ROUND = 64


def measure(ground: Ground, sizes: tuple[int, ...], rounds: int, say: Callable[[str], None]) -> Section:
    small, large = sizes
    section = Section("scale", f"The ratios at {large:,} live rooms, beside those at {small:,}", "large / small")
    rooms = ground.ids(large)
    with ground.store("mass") as store, ground.plain() as client:
        _fill(ground, store, client, rooms[:small])
        at_small = _times(ground, store, client, rooms[:small], rounds)
        say(f"filling up to {large:,} rooms and as many plain keys")
        _fill(ground, store, client, rooms[small:])
        at_large = _times(ground, store, client, rooms, rounds)
    section.rows = [
        _row("update_status / SET", "update_status", "SET", at_small, at_large),
        _row("poll / MGET", "poll", "MGET", at_small, at_large),
    ]
    return section


def _row(name: str, ours: str, theirs: str, small: Times, large: Times) -> Row:
    before, after = ratio(small[ours], small[theirs]), ratio(large[ours], large[theirs])
    # The two sizes are not in the same rounds, so only their medians can be compared.
    growth = after.median / before.median
    return Row(name, "the smaller", "ratio", after.median, before.median, Spread(growth, growth, growth), BUDGET)


def _fill(ground: Ground, store: StatusStore, client: redis.Redis, rooms: list[int]) -> None:
    for at in range(0, len(rooms), 10_000):
        some = rooms[at : at + 10_000]
        store.update_many(dict.fromkeys(some, KVPoll.Bootstrapping))
        with client.pipeline(transaction=False) as pipe:
            for room in some:
                pipe.set(ground.key("mass", room), KVPoll.Bootstrapping.name, ex=TTL)
            pipe.execute()


def _times(ground: Ground, store: StatusStore, client: redis.Redis, rooms: list[int], rounds: int) -> Times:
    """Times at one size; every round takes other rooms, from all over the table."""
    random = Random(11)  # noqa: S311 - which rooms are measured
    calls: list[tuple[int, KVPoll]] = []
    plain: list[tuple[str, str]] = []
    some: list[int] = []
    keys: list[str] = []

    def pick() -> None:
        back = list(dict.fromkeys(room for room, _ in calls))
        store.clear_many(back)
        store.update_many(dict.fromkeys(back, KVPoll.Bootstrapping))
        picked = random.sample(rooms, _ROOMS_A_ROUND)
        calls[:] = [(room, status) for status in _LIFE for room in picked]

    def pick_plain() -> None:
        picked = random.sample(rooms, _ROOMS_A_ROUND)
        plain[:] = [(ground.key("mass", room), status.name) for status in _LIFE for room in picked]

    def pick_batch() -> None:
        some[:] = random.sample(rooms, _BATCH)
        keys[:] = [ground.key("mass", room) for room in random.sample(rooms, _BATCH)]

    def update() -> None:
        for room, status in calls:
            store.update_status(room, status)

    def plain_set() -> None:
        for key, name in plain:
            client.set(key, name, ex=TTL)

    units = _ROOMS_A_ROUND * len(_LIFE)
    times = interleave(
        [
            Contender("update_status", update, units, pick),
            Contender("SET", plain_set, units, pick_plain),
            Contender("poll", lambda: store.poll(some), _BATCH, pick_batch),
            Contender("MGET", lambda: client.mget(keys), _BATCH, pick_batch),
        ],
        rounds,
    )
    store.clear_many(dict.fromkeys(room for room, _ in calls))
    store.update_many(dict.fromkeys((room for room, _ in calls), KVPoll.Bootstrapping))
    return times
