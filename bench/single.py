"""One call at a time: update_status compared with SET with expiry, get with GET; blocking and asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Iterator

from bench import traffic
from bench.ground import TTL, Ground
from bench.measure import Contender, interleave
from bench.results import Budget, Section, compare
from redis_kvpoll import KVPoll

UPDATE_BUDGET = Budget(1.1)

TASKS = 8

_AT_ONCE = f", {TASKS} tasks"
_HOW = {False: "", True: ", no hiredis"}


def measure(ground: Ground, rooms: int, rounds: int) -> list[Section]:
    with contextlib.ExitStack() as closing:
        contenders = [c for pure in (False, True) for c in closing.enter_context(_blocking(ground, rooms, pure))]
        blocking = _section("one_call", "One call at a time, blocking", contenders, rounds)
    with asyncio.Runner() as runner, contextlib.ExitStack() as closing:
        contenders = [c for pure in (False, True) for c in closing.enter_context(_asyncio(ground, rooms, pure, runner))]
        waiting = _section("one_call_asyncio", "One call at a time, asyncio", contenders, rounds)
    return [blocking, waiting]


def _section(name: str, title: str, contenders: list[Contender], rounds: int) -> Section:
    section = Section(name, title, "ours / theirs")
    times = interleave(contenders, rounds)
    for how in _HOW.values():
        update, get = f"update_status{how}", f"get{how}"
        section.rows.append(compare(update, update, "SET with expiry", f"SET{how}", times, UPDATE_BUDGET))
        section.rows.append(compare(get, get, "GET", f"GET{how}", times))
    if f"SET{_AT_ONCE}" in times:
        update = f"update_status{_AT_ONCE}"
        section.rows.append(compare(update, update, "SET with expiry", f"SET{_AT_ONCE}", times, UPDATE_BUDGET))
    return section


@contextlib.contextmanager
def _blocking(ground: Ground, count: int, pure: bool) -> Iterator[list[Contender]]:
    rooms, how = ground.ids(count), _HOW[pure]
    calls = traffic.calls(rooms)
    # The plain side gets its keys ready-made, and so is measured at its best.
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
            Contender(f"update_status{how}", update, len(calls), lambda: store.clear_many(rooms)),
            Contender(f"SET{how}", plain_set, len(calls), lambda: client.delete(*(key for key, _ in plain))),
            Contender(f"get{how}", get, len(calls)),
            Contender(f"GET{how}", plain_get, len(calls)),
        ]


@contextlib.contextmanager
def _asyncio(ground: Ground, count: int, pure: bool, runner: asyncio.Runner) -> Iterator[list[Contender]]:
    rooms, how = ground.ids(count), _HOW[pure]
    # Each task has its own rooms, so that a room's calls keep their order.
    tasks = [traffic.calls(rooms[at::TASKS]) for at in range(TASKS)]
    plain_tasks = [[(ground.key("aio", room), status.name) for room, status in calls] for calls in tasks]
    calls, plain = traffic.calls(rooms), [pair for pairs in plain_tasks for pair in pairs]
    store, client = ground.store_async("aio", pure=pure), ground.plain_async(pure)

    async def update(calls: list[tuple[int, KVPoll]]) -> None:
        for room, status in calls:
            await store.update_status(room, status)

    async def plain_set(plain: list[tuple[str, str]]) -> None:
        for key, name in plain:
            await client.set(key, name, ex=TTL)

    async def get() -> None:
        for room, _ in calls:
            await store.get(room)

    async def plain_get() -> None:
        for key, _ in plain:
            await client.get(key)

    async def together(awaited: Iterable[Coroutine[None, None, None]]) -> None:
        await asyncio.gather(*awaited)

    def clear() -> None:
        runner.run(store.clear_many(rooms))

    contenders = [
        Contender(f"update_status{how}", lambda: runner.run(update(calls)), len(calls), clear),
        Contender(f"SET{how}", lambda: runner.run(plain_set(plain)), len(calls)),
        Contender(f"get{how}", lambda: runner.run(get()), len(calls)),
        Contender(f"GET{how}", lambda: runner.run(plain_get()), len(calls)),
    ]
    if not pure:
        contenders += [
            Contender(f"update_status{_AT_ONCE}", lambda: runner.run(together(map(update, tasks))), len(calls), clear),
            Contender(f"SET{_AT_ONCE}", lambda: runner.run(together(map(plain_set, plain_tasks))), len(calls)),
        ]
    try:
        yield contenders
    finally:
        runner.run(store.aclose())
        runner.run(client.aclose())
