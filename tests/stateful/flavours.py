"""What blocking code and asyncio use differently: with statements, waits, mirrors, and the tail of the feed."""

from __future__ import annotations

import asyncio
import itertools
import time

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol.feed import changes
from tests.stateful.bench import failed, outcome
from tests.stateful.oracle import FAILED
from tests.support import real
from tests.support.feeds import entries
from tests.support.internals import inner


def bare(side, by):
    """The store without its wrapper, and what runs its coroutines: None for a blocking one."""
    store = side.stores[by]
    return inner(store), side.runner.run if side.runner else None


def same(bench, what, call):
    """An answer that is equal on both sides; the oracle has none."""
    first, *others = [outcome(lambda side=side: call(side)) for side in bench.sides]
    for side, other in zip(bench.sides[1:], others, strict=True):
        assert other == first, bench.differs(side, what, other, first)
    return first


def plain(change):
    return change.room, change.status, change.reason, change.ttl


def history(bench, by, room):
    found = same(bench, (by, "history", room), lambda side: list(map(plain, side.stores[by].history(room))))
    there = bench.world.rooms.get(room)
    if there:
        assert found[-1][1] == there.status, (found, there)


def settings(bench, by):
    """They are lost with all other data, and come back when a store reconnects."""
    for side in bench.sides:
        found = side.stores[by].settings()
        assert found is None or (found.policy, found.mode) == (bench.world.policy, bench.world.mode)


def tail(bench, by, last=3):
    """The last changes, with one shard only: the order of two shards may differ between servers."""

    def read(side):
        some = sum(len(changes(*entry)) for tag in side.tags for entry in entries(side.client, tag))
        store, run = bare(side, by)
        if run is None:
            found = list(itertools.islice(store.tail(last), min(some, last)))
        else:
            found = run(first(store.tail(last), min(some, last)))
        return sorted(map(repr, map(plain, found)))

    if len(bench.sides[0].tags) == 1:
        same(bench, (by, "tail", last), read)


async def first(news, count):
    found = []
    while len(found) < count:
        found.append(await anext(news))
    return found


def wait(bench, by, room):
    """With a timeout of 0."""
    process = bench.processes[by]
    status = process.get(room)
    if status is None:
        expected = ("raised", "RoomNotFoundError", (room, "wait"))
    elif status.is_terminal:
        expected = status
    else:
        expected = ("raised", "WaitTimeoutError", (room,))  # what it saw last depends on its thread
    for side in bench.sides:
        found = outcome(lambda side=side: side.stores[by].wait(room, timeout=0))
        assert found == expected, bench.differs(side, (by, "wait", room), found, expected)


def mirror(bench, by, room, status):
    """A mirror is opened, read, updated by a write of its own process, and closed."""
    rooms = sorted({room, *bench.world.rooms})
    before = bench.processes[by].poll(rooms)
    expected = outcome(lambda: bench.processes[by].update_status(room, status))
    after = bench.processes[by].get(room, "gone")
    ranks = bench.processes[by].collect(room) if bench.processes[by].rank is not None else None
    for side in bench.sides:
        store, run = bare(side, by)
        found = (
            run(through_mirror_async(store, rooms, room, status, ranks))
            if run
            else through_mirror(store, rooms, room, status, ranks)
        )
        assert found == (before, expected, after, ranks), bench.differs(
            side, (by, "mirror", room, status), found, (before, expected, after, ranks)
        )


def through_mirror(store, rooms, room, status, ranks):
    with store.mirror() as copy:
        real.until(lambda: copy.synced, "synced")
        assert copy.lag < 60
        end = copy.on_change(lambda *change: None)
        before = copy.poll(rooms)
        update = outcome(lambda: store.update_status(room, status))
        if copy.get(room) in (FAILED, KVPoll.Success):
            assert copy.wait(room, timeout=10) == copy.get(room)
        end()
        for _ in range(5_000):
            if ranks is None or copy.collect(room) == ranks:
                break
            time.sleep(0.002)
        shown = None if ranks is None else copy.collect(room)
        return before, update, copy.get(room, "gone"), shown


async def through_mirror_async(store, rooms, room, status, ranks):
    async with store.mirror() as copy:
        await asyncio.to_thread(real.until, lambda: copy.synced, "synced")
        assert copy.lag < 60
        end = copy.on_change(lambda *change: None)
        before = copy.poll(rooms)
        update = await aoutcome(store.update_status(room, status))
        if copy.get(room) in (FAILED, KVPoll.Success):
            assert await copy.wait(room, timeout=10) == copy.get(room)
        end()
        for _ in range(5_000):
            if ranks is None or copy.collect(room) == ranks:
                break
            await asyncio.sleep(0.002)
        shown = None if ranks is None else copy.collect(room)
        return before, update, copy.get(room, "gone"), shown


async def aoutcome(coroutine):
    task = asyncio.ensure_future(coroutine)
    await asyncio.wait([task])
    return outcome(task.result)


def leave(bench, handle):
    """A with statement that ends clears the room."""
    by, room, (life, _), handles = handle
    expected = outcome(lambda: bench.processes[by].room_clear(room, life))
    for one in handles:
        found = outcome(lambda one=one: left(one))
        assert failed(found) == failed(expected), (found, expected)


def left(handle):
    with handle:
        assert handle.namespace == "default"


def lease(bench, by, room):
    """A with statement creates a room and ends before it: the room fails, by its owner."""
    process = bench.processes[by]
    process.take("brief", 600.0, 200.0)
    expected = outcome(lambda: process.update_status(room, KVPoll.Bootstrapping))
    process.release()
    for side in bench.sides:
        store, run = bare(side, by)
        held = store.lease("brief", ttl=600.0, heartbeat=200.0)
        found = run(aowned(side, held, store, room)) if run else owned(side, held, store, room)
        assert found == expected, bench.differs(side, (by, "lease", room), found, expected)
        assert failed(outcome(held.check)), "check of a lease that was released"


def noted(side, held):
    held.check()
    assert (held.name, held.ttl, held.heartbeat, held.lost) == ("brief", 600.0, 200.0, False)
    side.incarnations[held.incarnation] = len(side.incarnations) + 1


def owned(side, held, store, room):
    with held:
        noted(side, held)
        return outcome(lambda: store.update_status(room, KVPoll.Bootstrapping))


async def aowned(side, held, store, room):
    async with held:
        noted(side, held)
        return await aoutcome(store.update_status(room, KVPoll.Bootstrapping))
