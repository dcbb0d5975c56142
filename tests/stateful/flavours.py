"""What is used in its own way by blocking code and by asyncio: with statements, waits, mirrors, and the feed's end."""

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


def bare(side, who):
    """The store as its own code uses it, and how that is run: a coroutine by the loop of its side."""
    store = side.stores[who]
    return inner(store), side.runner.run if side.runner else None


def same(bench, what, call):
    """An answer that both sides must give; the oracle has none."""
    first, *others = [outcome(lambda side=side: call(side)) for side in bench.sides]
    for side, other in zip(bench.sides[1:], others, strict=True):
        assert other == first, bench.differs(side, what, other, first)
    return first


def plain(change):
    return change.room, change.status, change.reason, change.ttl


def history(bench, who, room):
    found = same(bench, (who, "history", room), lambda side: list(map(plain, side.stores[who].history(room))))
    there = bench.world.rooms.get(room)
    if there:
        assert found[-1][1] == there.status, (found, there)


def settings(bench, who):
    """They go with all other data, and come back when a store connects anew."""
    for side in bench.sides:
        found = side.stores[who].settings()
        assert found is None or (found.policy, found.mode) == (bench.world.policy, bench.world.mode)


def tail(bench, who, last=3):
    """The last changes; those of two shards have no order among each other that two servers must share."""

    def read(side):
        some = sum(len(changes(*entry)) for tag in side.tags for entry in entries(side.client, tag))
        store, run = bare(side, who)
        if run is None:
            news = store.tail(last)
            found = list(itertools.islice(news, min(some, last)))
            news.close()
        else:
            found = run(first(store.tail(last), min(some, last)))
        return sorted(map(repr, map(plain, found)))

    if len(bench.sides[0].tags) == 1:
        same(bench, (who, "tail", last), read)


async def first(news, count):
    found = []
    while len(found) < count:
        found.append(await anext(news))
    await news.aclose()
    return found


def wait(bench, who, room):
    """Without time to wait in."""
    process = bench.processes[who]
    status = process.get(room)
    if status is None:
        expected = ("raised", "RoomNotFoundError", (room, "wait"))
    elif status.is_terminal:
        expected = status
    else:
        expected = ("raised", "WaitTimeoutError", (room,))  # what it has seen last is up to its thread
    for side in bench.sides:
        found = outcome(lambda side=side: side.stores[who].wait(room, timeout=0))
        assert found == expected, bench.differs(side, (who, "wait", room), found, expected)


def mirror(bench, who, room, status):
    """A mirror that is opened, read, told of a write by its own process, and closed."""
    rooms = sorted({room, *bench.world.rooms})
    before = bench.processes[who].poll(rooms)
    expected = outcome(lambda: bench.processes[who].update_status(room, status))
    after = bench.processes[who].get(room, "gone")
    ranks = bench.processes[who].collect(room) if bench.processes[who].rank is not None else None
    for side in bench.sides:
        store, run = bare(side, who)
        look = run(alook(store, rooms, room, status, ranks)) if run else look_through(store, rooms, room, status, ranks)
        assert look == (before, expected, after, ranks), bench.differs(
            side, (who, "mirror", room, status), look, (before, expected, after, ranks)
        )


def look_through(store, rooms, room, status, ranks):
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


async def alook(store, rooms, room, status, ranks):
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
    who, room, (life, _), handles = handle
    expected = outcome(lambda: bench.processes[who].room_clear(room, life))
    for one in handles:
        found = outcome(lambda one=one: left(one))
        assert failed(found) == failed(expected), (found, expected)


def left(handle):
    with handle:
        assert handle.namespace == "default"


def lease(bench, who, room):
    """A with statement in which a room is made, and which ends before it has: it fails, and it is the owner who did."""
    process = bench.processes[who]
    process.take("brief", 600.0, 200.0)
    expected = outcome(lambda: process.update_status(room, KVPoll.Bootstrapping))
    process.give_up()
    for side in bench.sides:
        store, run = bare(side, who)
        held = store.lease("brief", ttl=600.0, heartbeat=200.0)
        found = run(aowned(side, held, store, room)) if run else owned(side, held, store, room)
        assert found == expected, bench.differs(side, (who, "lease", room), found, expected)
        assert failed(outcome(held.check)), "check of a lease that was given up"


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
