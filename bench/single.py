"""One call at a time: update_status beside SET with expiry, get beside GET; blocking and asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from bench import traffic
from bench.ground import TTL, Ground
from bench.measure import Contender, interleave
from bench.results import Budget, Section, compare

UPDATE_BUDGET = Budget(1.1)


def measure(ground: Ground, rooms: int, rounds: int) -> list[Section]:
    blocking = Section("one_call", "One call at a time, blocking", "ours / theirs")
    with contextlib.ExitStack() as closing:
        for pure in (False, True):
            contenders = closing.enter_context(_blocking(ground, rooms, pure))
            _add_rows(blocking, contenders, rounds, pure)
    waiting = Section("one_call_asyncio", "One call at a time, asyncio", "ours / theirs")
    with asyncio.Runner() as runner:
        for pure in (False, True):
            with _asyncio(ground, rooms, pure, runner) as contenders:
                _add_rows(waiting, contenders, rounds, pure)
    return [blocking, waiting]


def _add_rows(section: Section, contenders: list[Contender], rounds: int, pure: bool) -> None:
    times = interleave(contenders, rounds)
    how = ", no hiredis" if pure else ""
    section.rows += [
        compare(f"update_status{how}", "update_status", "SET with expiry", "SET", times, UPDATE_BUDGET),
        compare(f"get{how}", "get", "GET", "GET", times),
    ]


@contextlib.contextmanager
def _blocking(ground: Ground, count: int, pure: bool) -> Iterator[list[Contender]]:
    rooms = ground.ids(count)
    calls = traffic.calls(rooms)
    # The plain side gets its keys ready made: it is measured at its best.
    plain = [(ground.key("one", room), status.name) for room, status in calls]
    with ground.store("one", pure=pure) as store, ground.plain(pure) as client:

        def update() -> None:
            for room, status in calls:
                store.update_status(room, status)

        def plain_set() -> None:
            for key, name in plain:
                client.set(key, name, ex=TTL)

        def get() -> None:
            for room, _ in calls:
                store.get(room)

        def plain_get() -> None:
            for key, _ in plain:
                client.get(key)

        yield [
            Contender("update_status", update, len(calls), lambda: store.clear_many(rooms)),
            Contender("SET", plain_set, len(calls), lambda: client.delete(*(key for key, _ in plain))),
            Contender("get", get, len(calls)),
            Contender("GET", plain_get, len(calls)),
        ]


@contextlib.contextmanager
def _asyncio(ground: Ground, count: int, pure: bool, runner: asyncio.Runner) -> Iterator[list[Contender]]:
    rooms = ground.ids(count)
    calls = traffic.calls(rooms)
    plain = [(ground.key("aio", room), status.name) for room, status in calls]
    store, client = ground.store_async("aio", pure=pure), ground.plain_async(pure)

    async def update() -> None:
        for room, status in calls:
            await store.update_status(room, status)

    async def plain_set() -> None:
        for key, name in plain:
            await client.set(key, name, ex=TTL)

    async def get() -> None:
        for room, _ in calls:
            await store.get(room)

    async def plain_get() -> None:
        for key, _ in plain:
            await client.get(key)

    async def delete() -> None:
        await client.delete(*(key for key, _ in plain))

    try:
        yield [
            Contender(
                "update_status", lambda: runner.run(update()), len(calls), lambda: runner.run(store.clear_many(rooms))
            ),
            Contender("SET", lambda: runner.run(plain_set()), len(calls), lambda: runner.run(delete())),
            Contender("get", lambda: runner.run(get()), len(calls)),
            Contender("GET", lambda: runner.run(plain_get()), len(calls)),
        ]
    finally:
        runner.run(store.aclose())
        runner.run(client.aclose())
