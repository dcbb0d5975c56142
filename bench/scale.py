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
_RATIOS = (("update_status", "SET"), ("poll", "MGET"), ("update_many", "update_status"))

_LIFE = (KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Transferring, KVPoll.Transferring, KVPoll.Success)
_BATCH = 1000
_ROOMS_A_ROUND = 64


def measure(ground: Ground, sizes: tuple[int, ...], rounds: int, say: Callable[[str], None]) -> Section:
    """Ratios at each size beside those at the first."""
    first, last = sizes[0], sizes[-1]
    section = Section(
        "scale",
        f"The ratios with up to {last:,} live rooms, beside those with {first:,}",
        "large / small",
        theirs=f"with {first:,}",
    )
    rooms = ground.ids(last)
    found: dict[int, Times] = {}
    filled = 0
    with ground.store("mass") as store, ground.plain() as client:
        for size in sizes:
            say(f"at {size:,} rooms and as many plain keys")
            _fill(ground, store, client, rooms[filled:size])
            found[size] = _times(ground, store, client, rooms[:size], rounds)
            filled = size
    for ours, theirs in _RATIOS:
        for size in sizes[1:]:
            section.rows.append(_row(f"{ours} / {theirs}, {size:,}", ours, theirs, found[first], found[size]))
    return section


def _row(name: str, ours: str, theirs: str, small: Times, large: Times) -> Row:
    before, after = ratio(small[ours], small[theirs]), ratio(large[ours], large[theirs])
    # The two sizes are not in the same rounds, so only their medians can be compared.
    growth = after.median / before.median
    return Row(name, "", "ratio", after.median, before.median, Spread(growth, growth, growth), BUDGET)


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
    many: dict[int, KVPoll] = {}
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

    def pick_many() -> None:
        pick()
        many.clear()
        many.update(dict.fromkeys(random.sample(rooms, _BATCH), KVPoll.WaitingForInput))
        store.clear_many(many)
        store.update_many(dict.fromkeys(many, KVPoll.Bootstrapping))

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
            Contender("update_many", lambda: store.update_many(many), _BATCH, pick_many),
            Contender("MGET", lambda: client.mget(keys), _BATCH, pick_batch),
        ],
        rounds,
    )
    store.clear_many(dict.fromkeys(room for room, _ in calls))
    store.update_many(dict.fromkeys((room for room, _ in calls), KVPoll.Bootstrapping))
    return times
