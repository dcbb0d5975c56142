"""The memory of a room on the server, without its key name."""

from __future__ import annotations

import contextlib

from bench.ground import Ground
from bench.measure import Spread
from bench.results import Budget, Row, Section
from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.protocol import keys

BUDGET = Budget(256)
OWNED_BUDGET = Budget(384)
RANKS = 8
RANKS_BUDGET = Budget(700)
_REQUEST = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
"""A UUID, as most request ids are."""
_REASON = "Decode instance could be dead, remote mooncake session 10.0.0.7:17012 is not alive"


def measure(ground: Ground, count: int) -> Section:
    section = Section("memory", "Memory of a room on the server, beside its key name", "bytes")
    with ground.store("memory", feed_length=0) as store:  # the feed's memory is bounded, and measured elsewhere
        store.update_status(0, KVPoll.Bootstrapping)  # makes the connection and the settings
        store.clear(0)
        section.rows = [
            _row("live room, MEMORY USAGE", _usage(ground, store, None), BUDGET),
            _row(f"failed room, reason of {len(_REASON)} characters", _usage(ground, store, _REASON), None),
            _row(f"live room, used_memory of {count:,}", [_growth(ground, store, count)], BUDGET),
        ]
        with store.lease("prefill-0"):
            name = "live room with request and owner, MEMORY USAGE"
            section.rows.append(_row(name, _owned(ground, store), OWNED_BUDGET))
        name = f"live room of {RANKS} ranks under leases, all keys, MEMORY USAGE"
        section.rows.append(_row(name, [_of_ranks(ground)], RANKS_BUDGET))
    return section


def _row(name: str, sizes: list[float], budget: Budget | None) -> Row:
    size = Spread.of(sizes)
    return Row(name, "", "bytes", size.median, None, size, budget)


def _key(ground: Ground, room: int) -> str:
    return keys.rooms(f"{ground.id}.memory", [room])[0]


def _usage(ground: Ground, store: StatusStore, reason: str | None) -> list[float]:
    rooms = ground.ids(100)
    store.update_many(dict.fromkeys(rooms, KVPoll.Bootstrapping))
    store.update_many(dict.fromkeys(rooms, KVPoll.Transferring))
    if reason:
        for room in rooms:
            store.abort(room, reason)
    names = [_key(ground, room) for room in rooms]
    # SAMPLES 0: every field is measured, none is estimated.
    sizes: list[float] = [int(ground.client.memory_usage(name, samples=0) or 0) - len(name) for name in names]
    store.clear_many(rooms)
    return sizes


def _owned(ground: Ground, store: StatusStore) -> list[float]:
    """The memory of rooms that requests opened under a lease."""
    opened = [store.open(room, request=_REQUEST) for room in ground.ids(100)]
    for room in opened:
        room.update(KVPoll.Transferring)
    names = [_key(ground, room.id) for room in opened]
    sizes: list[float] = [int(ground.client.memory_usage(name, samples=0) or 0) - len(name) for name in names]
    for room in opened:
        room.clear()
    return sizes


def _of_ranks(ground: Ground) -> float:
    """The memory of a room in which each rank holds a part, with its share of the list of owned rooms."""
    table, rooms = "memory-of-ranks", ground.ids(100)
    with contextlib.ExitStack() as closing:
        for rank in range(RANKS):
            store = closing.enter_context(ground.rank(table, rank, RANKS))
            closing.enter_context(store.lease(f"prefill-{rank}"))
            for room in rooms:
                store.open(room, request=_REQUEST).update(KVPoll.Transferring)
        names = keys.rooms(f"{ground.id}.{table}", rooms)
        listed = int(ground.client.memory_usage(keys.owned(f"{ground.id}.{table}"), samples=0) or 0)
        sizes = [int(ground.client.memory_usage(name, samples=0) or 0) - len(name) for name in names]
    return (sum(sizes) + listed) / len(rooms)


def _growth(ground: Ground, store: StatusStore, count: int) -> float:
    """The server's growth in bytes per room, with its tables of keys and expiry times, which MEMORY USAGE omits."""
    rooms = ground.ids(count)
    before = _used(ground)
    store.update_many(dict.fromkeys(rooms, KVPoll.Bootstrapping))
    store.update_many(dict.fromkeys(rooms, KVPoll.Transferring))
    growth = (_used(ground) - before) / count - len(_key(ground, rooms[0]))
    store.clear_many(rooms)
    return growth


def _used(ground: Ground) -> int:
    return int(ground.client.info("memory")["used_memory"])
