"""One call at a time: update_status compared with SET with expiry, get with GET; blocking and asyncio.

The contenders alternate call by call, so that a slow moment of the machine hits all of them. Rows compare the medians
of all calls, and their fastest tenths (p10): what a call takes where nothing disturbs it.

Client and server share a CPU: see one_cpu. The rows "a CPU each" say what it is where each has its own; they have no
budget, since much of them is the waking of CPUs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from functools import partial

from bench import traffic
from bench.ground import TTL, Ground
from bench.measure import Calls, Contender, Spread, Times, alternate, alternate_async, interleave
from bench.one_cpu import on_one_cpu
from bench.results import Budget, Row, Section, compare
from redis_kvpoll import KVPoll

BUDGET, ASYNC_BUDGET = Budget(0.75), Budget(0.85)
OTHER_BUDGET = Budget(1.1)
"""For calls without hiredis, whose time is mostly redis-py's; and for a write through a handle."""

TASKS = 8
_HANDLE = "handle.update, lease and mirror"


def measure(ground: Ground, rooms: int, rounds: int) -> list[Section]:
    blocking = Section("one_call", "One call at a time, blocking", "ours / theirs")
    waiting = Section("one_call_asyncio", "One call at a time, asyncio", "ours / theirs")
    with asyncio.Runner() as runner:
        with on_one_cpu(ground.server) as is_one:
            if is_one:
                for section in (blocking, waiting):
                    section.title += "; client and server on one CPU"
            for pure, how in ((False, ""), (True, ", no hiredis")):
                blocking.rows += _pairs(how, _blocking(ground, rooms, rounds, pure), OTHER_BUDGET if pure else BUDGET)
                times = runner.run(_asyncio(ground, rooms, rounds, pure))
                waiting.rows += _pairs(how, times, OTHER_BUDGET if pure else ASYNC_BUDGET)
            blocking.rows += _rows(_HANDLE, "", "SET with expiry", _handles(ground, rooms, rounds), OTHER_BUDGET)
            waiting.rows.append(_at_once(ground, rooms, rounds, runner))
        if is_one and len(os.sched_getaffinity(0)) > 1:
            blocking.rows += _pairs(", a CPU each", _blocking(ground, rooms, rounds, pure=False), None)
            waiting.rows += _pairs(", a CPU each", runner.run(_asyncio(ground, rooms, rounds, pure=False)), None)
    return [blocking, waiting]


def _pairs(how: str, times: Times, budget: Budget | None) -> list[Row]:
    """What both kinds of calls are compared with."""
    against = {"update_status": "SET with expiry", "get": "GET"}
    return [row for ours, theirs in against.items() for row in _rows(ours, how, theirs, times, budget)]


def _rows(name: str, how: str, against: str, times: Times, budget: Budget | None) -> list[Row]:
    """The medians and the fastest tenths of two contenders."""
    rows = []
    for suffix, share in (("", 0.5), (", p10", 0.1)):
        ours, theirs = (sorted(times[one])[int(len(times[one]) * share)] for one in (name, against))
        ratio = ours / theirs
        rows.append(
            Row(f"{name}{how}{suffix}", against, "us", ours * 1e6, theirs * 1e6, Spread(ratio, ratio, ratio), budget)
        )
    return rows


def _blocking(ground: Ground, count: int, rounds: int, pure: bool) -> Times:
    rooms = ground.ids(count)
    calls = traffic.calls(rooms)
    # The plain side gets its keys ready-made, and so is measured at its best.
    plain = [(ground.key("one", room), status.name) for room, status in calls]
    with ground.store("one", pure=pure) as store, ground.plain(pure) as client:
        contenders: Calls = {
            "update_status": [partial(store.update_status, room, status) for room, status in calls],
            "SET with expiry": [partial(client.set, key, name, ex=TTL) for key, name in plain],
            "get": [partial(store.get, room) for room, _ in calls],
            "GET": [partial(client.get, key) for key, _ in plain],
        }
        return alternate(contenders, rounds, lambda: store.clear_many(rooms))


def _handles(ground: Ground, count: int, rounds: int) -> Times:
    """Writes through handles, as the plugin makes them: under a lease, with a mirror open."""
    times: Times = {_HANDLE: [], "SET with expiry": []}
    with ground.store("handles") as store, ground.plain() as client, store.lease("bench"), store.mirror():
        for _ in range(rounds):
            handles = [store.open(room) for room in ground.ids(count)]
            calls = [(handle, status) for status in traffic.LIFE[1:] for handle in handles]
            contenders: Calls = {
                _HANDLE: [partial(handle.update, status) for handle, status in calls],
                "SET with expiry": [
                    partial(client.set, ground.key("handles", handle.id), status.name, ex=TTL)
                    for handle, status in calls
                ],
            }
            for name, some in alternate(contenders, 1).items():
                times[name] += some
            for handle in handles:
                handle.clear()
    return times


async def _asyncio(ground: Ground, count: int, rounds: int, pure: bool) -> Times:
    rooms = ground.ids(count)
    calls = traffic.calls(rooms)
    plain = [(ground.key("aio", room), status.name) for room, status in calls]
    store, client = ground.store_async("aio", pure=pure), ground.plain_async(pure)
    async with store, client:
        return await alternate_async(
            {
                "update_status": [partial(store.update_status, room, status) for room, status in calls],
                "SET with expiry": [partial(client.set, key, name, ex=TTL) for key, name in plain],
                "get": [partial(store.get, room) for room, _ in calls],
                "GET": [partial(client.get, key) for key, _ in plain],
            },
            rounds,
            lambda: store.clear_many(rooms),
        )


def _at_once(ground: Ground, count: int, rounds: int, runner: asyncio.Runner) -> Row:
    """Tasks at once. Each has its own rooms, so that a room's calls keep their order."""
    rooms = ground.ids(count)
    tasks = [traffic.calls(rooms[at::TASKS]) for at in range(TASKS)]
    name, units = f"update_status, {TASKS} tasks", sum(map(len, tasks))
    store, client = ground.store_async("aio"), ground.plain_async()

    async def update(calls: list[tuple[int, KVPoll]]) -> None:
        for room, status in calls:
            await store.update_status(room, status)

    async def plain_set(calls: list[tuple[int, KVPoll]]) -> None:
        for room, status in calls:
            await client.set(ground.key("aio", room), status.name, ex=TTL)

    async def updates() -> None:
        await asyncio.gather(*map(update, tasks))

    async def sets() -> None:
        await asyncio.gather(*map(plain_set, tasks))

    with contextlib.ExitStack() as closing:
        closing.callback(lambda: runner.run(client.aclose()))
        closing.callback(lambda: runner.run(store.aclose()))
        contenders = [
            Contender(name, lambda: runner.run(updates()), units, lambda: runner.run(store.clear_many(rooms))),
            Contender("SET", lambda: runner.run(sets()), units),
        ]
        return compare(name, name, "SET with expiry", "SET", interleave(contenders, rounds), ASYNC_BUDGET)
