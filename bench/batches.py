"""1,000 rooms in one call, compared with the simplest Redis commands, and with one call per room."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import redis

from bench import traffic
from bench.ground import TTL, Ground
from bench.measure import Contender, interleave
from bench.results import Budget, Section, cheaper, compare
from redis_kvpoll import KVPoll, StatusStore

BATCH = 1000
POLL_BUDGET = Budget(3.0)
UPDATE_CHEAPER = Budget(20.0, at_least=True)
POLL_CHEAPER = Budget(30.0, at_least=True)

_SHARDS = (1, 8)
_FEW = 100
"""Rooms for one by one: a tenth of the batch is enough, and takes less time."""


def measure(ground: Ground, rounds: int) -> list[Section]:
    rooms = ground.ids(BATCH)
    bare = Section("batches", "1,000 rooms in one call, a room, beside the barest commands", "ours / theirs")
    alone = Section("batches_cheaper", "1,000 rooms in one call, a room, beside one by one", "times cheaper")
    with contextlib.ExitStack() as closing:
        client = closing.enter_context(ground.plain())
        contenders = _plain(ground, client, rooms)
        for shards in _SHARDS:
            store = closing.enter_context(ground.store(f"many{shards}", shards))
            contenders += _ours(store, rooms, shards)
        contenders += _one_by_one(closing.enter_context(ground.store("few")), rooms[:_FEW])
        times = interleave(contenders, rounds)
        waiting = interleave(closing.enter_context(_asyncio(ground, rooms)), rounds)
    for shards in _SHARDS:
        how = "" if shards == 1 else f", {shards} shards"
        bare.rows.append(compare(f"poll{how}", f"poll {shards}", "MGET", "MGET", times, POLL_BUDGET))
        alone.rows.append(
            cheaper(f"update_many{how}", f"update_many {shards}", "update_status", "updates", times, UPDATE_CHEAPER)
        )
        alone.rows.append(cheaper(f"poll{how}", f"poll {shards}", "get", "gets", times, POLL_CHEAPER))
    bare.rows.append(compare("poll, asyncio", "poll", "MGET, asyncio", "MGET", waiting, POLL_BUDGET))
    bare.rows.append(compare("update_many", "update_many 1", "SET pipeline", "SETs", times))
    bare.rows.append(compare("touch", "touch 1", "EXPIRE pipeline", "EXPIREs", times))
    bare.rows.append(compare("clear_many", "clear_many 1", "one DEL", "DEL", times))
    return [bare, alone]


def _ours(store: StatusStore, rooms: list[int], shards: int) -> list[Contender]:
    def fill() -> None:
        store.update_many(dict.fromkeys(rooms, KVPoll.Transferring))

    def live() -> None:
        for status in traffic.LIFE:
            store.update_many(dict.fromkeys(rooms, status))

    return [
        Contender(f"update_many {shards}", live, len(rooms) * len(traffic.LIFE), lambda: store.clear_many(rooms)),
        Contender(f"poll {shards}", lambda: store.poll(rooms), len(rooms), fill),
        Contender(f"touch {shards}", lambda: store.touch(rooms), len(rooms), fill),
        Contender(f"clear_many {shards}", lambda: store.clear_many(rooms), len(rooms), fill),
    ]


def _one_by_one(store: StatusStore, rooms: list[int]) -> list[Contender]:
    calls = traffic.calls(rooms)

    def updates() -> None:
        for room, status in calls:
            store.update_status(room, status)

    def gets() -> None:
        for room in rooms:
            store.get(room)

    return [
        Contender("updates", updates, len(calls), lambda: store.clear_many(rooms)),
        Contender("gets", gets, len(rooms), lambda: store.update_many(dict.fromkeys(rooms, KVPoll.Transferring))),
    ]


def _plain(ground: Ground, client: redis.Redis, rooms: list[int]) -> list[Contender]:
    keys = [ground.key("many", room) for room in rooms]

    def fill() -> None:
        with client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.set(key, KVPoll.Transferring.name, ex=TTL)
            pipe.execute()

    def live() -> None:
        for status in traffic.LIFE:
            name = status.name
            with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.set(key, name, ex=TTL)
                pipe.execute()

    def expire() -> None:
        with client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.expire(key, TTL)
            pipe.execute()

    return [
        Contender("MGET", lambda: client.mget(keys), len(keys), fill),
        Contender("SETs", live, len(keys) * len(traffic.LIFE)),
        Contender("EXPIREs", expire, len(keys), fill),
        Contender("DEL", lambda: client.delete(*keys), len(keys), fill),
    ]


@contextlib.contextmanager
def _asyncio(ground: Ground, rooms: list[int]) -> Iterator[list[Contender]]:
    keys = [ground.key("aiom", room) for room in rooms]
    store, client = ground.store_async("aiom"), ground.plain_async()

    async def poll() -> None:
        await store.poll(rooms)

    async def mget() -> None:
        await client.mget(keys)

    async def fill() -> None:
        await store.update_many(dict.fromkeys(rooms, KVPoll.Transferring))
        for key in keys:
            await client.set(key, KVPoll.Transferring.name, ex=TTL)

    with asyncio.Runner() as runner:
        runner.run(fill())
        yield [
            Contender("poll", lambda: runner.run(poll()), len(rooms)),
            Contender("MGET", lambda: runner.run(mget()), len(rooms)),
        ]
        runner.run(store.aclose())
        runner.run(client.aclose())
