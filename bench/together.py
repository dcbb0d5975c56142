"""Many calls at once: asyncio calls gathered, and 16 threads on one store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from bench import traffic
from bench.ground import TTL, Ground
from bench.measure import Contender, interleave
from bench.results import Budget, Section, cheaper
from redis_kvpoll import KVPoll, StatusStore

THREADS = 16
GATHERED = Budget(10, at_least=True)
THREADED = Budget(2, at_least=True)
POOLED = Budget(2, at_least=True)

_ALONE = 200
"""Rooms for one by one: enough to measure a call."""
_ROOMS_A_THREAD = 12


def measure(ground: Ground, calls: int, rounds: int) -> Section:
    section = Section("together", "Many calls at once, a call", "times cheaper")
    with _asyncio(ground, calls) as contenders:
        times = interleave(contenders, rounds)
    name = f"{calls:,} asyncio updates gathered"
    section.rows.append(cheaper(name, "gathered", "awaited one by one", "awaited", times, GATHERED))
    section.rows.append(cheaper(f"{calls:,} asyncio gets gathered", "gathered gets", "one by one", "gets", times))
    with _threads(ground) as contenders:
        times = interleave(contenders, rounds)
    name = f"{THREADS} threads of one store"
    section.rows.append(cheaper(f"{name} beside one", "many", "one thread", "one", times, THREADED))
    section.rows.append(cheaper(f"{name} beside SET", "many", f"{THREADS} threads, a pool", "pool", times, POOLED))
    section.rows.append(cheaper("one thread of a store", "one", "one thread, SET", "SET", times))
    return section


@contextlib.contextmanager
def _asyncio(ground: Ground, count: int) -> Iterator[list[Contender]]:
    rooms = ground.ids(count)
    store = ground.store_async("gather")

    async def gathered() -> None:
        for status in traffic.LIFE:
            await asyncio.gather(*(store.update_status(room, status) for room in rooms))

    async def awaited() -> None:
        for status in traffic.LIFE:
            for room in rooms[:_ALONE]:
                await store.update_status(room, status)

    async def gathered_gets() -> None:
        await asyncio.gather(*(store.get(room) for room in rooms))

    async def gets() -> None:
        for room in rooms[:_ALONE]:
            await store.get(room)

    with asyncio.Runner() as runner:

        def clear() -> None:
            runner.run(store.clear_many(rooms))

        def fill() -> None:
            runner.run(store.update_many(dict.fromkeys(rooms, KVPoll.Transferring)))

        lives = len(traffic.LIFE)
        try:
            yield [
                Contender("gathered", lambda: runner.run(gathered()), count * lives, clear),
                Contender("awaited", lambda: runner.run(awaited()), _ALONE * lives, clear),
                Contender("gathered gets", lambda: runner.run(gathered_gets()), count, fill),
                Contender("gets", lambda: runner.run(gets()), _ALONE, fill),
            ]
        finally:
            runner.run(store.aclose())


@contextlib.contextmanager
def _threads(ground: Ground) -> Iterator[list[Contender]]:
    rooms = ground.ids(THREADS * _ROOMS_A_THREAD)
    # Each thread has its own rooms, so that a room's calls keep their order.
    shares = [traffic.calls(rooms[at::THREADS]) for at in range(THREADS)]
    calls = traffic.calls(rooms)
    plain_shares = [[(ground.key("threads", room), status.name) for room, status in share] for share in shares]
    plain = [pair for share in plain_shares for pair in share]
    with (
        ground.store("threads") as store,
        ground.store("thread") as single,
        ground.plain() as client,
        ThreadPoolExecutor(THREADS) as threads,
    ):

        def plain_set(share: list[tuple[str, str]]) -> None:
            for key, name in share:
                client.set(key, name, ex=TTL)

        def spread(run: Callable[[int], None]) -> None:
            list(threads.map(run, range(THREADS)))

        yield [
            Contender(
                "many", lambda: spread(lambda n: _update(store, shares[n])), len(calls), lambda: store.clear_many(rooms)
            ),
            Contender("one", lambda: _update(single, calls), len(calls), lambda: single.clear_many(rooms)),
            Contender("pool", lambda: spread(lambda n: plain_set(plain_shares[n])), len(calls)),
            Contender("SET", lambda: plain_set(plain), len(calls)),
        ]


def _update(store: StatusStore, calls: list[tuple[int, KVPoll]]) -> None:
    for room, status in calls:
        store.update_status(room, status)
