"""A program cancels all tasks of its event loop but its own, and goes on: so do followers and heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll, Update
from redis_kvpoll.aio import callers
from redis_kvpoll.aio.rank_group import AsyncRankGroup
from redis_kvpoll.protocol.rank_commands import RankChange
from redis_kvpoll.transport.connection_options import MAX_IDLE
from tests.support import pace, real
from tests.support.calls import until
from tests.support.leasing import record
from tests.support.mirrors import sleeping

BOOT, MOVE, DONE = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success
RANKS = 3
PATIENCE = 120
"""Seconds of an idle machine."""


@pytest.fixture
def server():
    with real.World("sync") as world:
        yield world.shared()


@pytest.fixture
async def store(server):
    async with AsyncStatusStore.from_url(server.tcp, deadline=60.0) as store:
        yield store


def others(*mine):
    return asyncio.all_tasks() - {asyncio.current_task(), *mine}


async def cancel_all_but(*mine):
    """Cancel the other tasks, and wait for their ends."""
    cancelled = others(*mine)
    for task in cancelled:
        task.cancel()
    if cancelled:
        await asyncio.wait(cancelled)


async def test_wait_ends(store, peer):
    """One that sleeps, and one that begins while nothing follows the feed."""
    peer.update_many({1: BOOT, 2: BOOT})
    sleeps = asyncio.create_task(store.wait(1, DONE))
    await until(lambda: sleeping(store), "it sleeps")
    await cancel_all_but(sleeps)
    begins = asyncio.create_task(store.wait(2, DONE))
    await until(lambda: sleeping(store, 2), "both sleep", PATIENCE)
    peer.update_many({1: DONE, 2: DONE})
    async with asyncio.timeout(pace.patience(PATIENCE)):
        assert await asyncio.gather(sleeps, begins) == [DONE, DONE]


async def test_mirror_follows(store, peer):
    async with store.mirror() as mirror:
        for status in (BOOT, MOVE, DONE):
            await cancel_all_but()
            peer.update_status(1, status)
            await until(lambda status=status: mirror.synced and mirror.get(1) is status, "it follows", PATIENCE)


async def test_failure_is_told(store, peer):
    peer.update_status(1, BOOT)
    async with store.failures(lambda: [1]) as failures:
        await cancel_all_but()
        peer.abort(1, "no memory")
        await until(lambda: failures.get(1), "it is told", PATIENCE)


@contextlib.asynccontextmanager
async def holding(store, by):
    ttl, heartbeat = pace.seconds(60), 0.05
    if by == "lease":
        async with store.lease("prefill-0", ttl, heartbeat):
            yield
    else:
        async with AsyncRankGroup(store) as group:
            await group.join(0, RANKS, "prefill-0", ttl, heartbeat)
            yield


@pytest.mark.parametrize("by", ["lease", "rank group"])
async def test_lease_is_renewed(store, server, by):
    with server.client() as client:
        async with holding(store, by):
            await cancel_all_but()
            before = record(client)
            await until(lambda: record(client)[3] > before[3], "it is renewed", PATIENCE)


async def test_write_of_cancelled_turn_holds_up_no_later_one(store):
    async with AsyncRankGroup(store) as group:
        identity = await group.join(0, RANKS)
        opened = await group.open(1, "rid", BOOT, identity)
        change = RankChange(1, identity, opened.generation, MOVE)
        writing = asyncio.create_task(group.write_together([change]))
        await asyncio.sleep(0)  # it has made a task for this turn, which has not begun
        await cancel_all_but()
        assert writing.cancelled()
        (answer,) = await group.write_together([change])
        assert isinstance(answer, Update)


async def test_cancelled_turn_after_turn_costs_no_connection(proxy):
    """What reads the reply for a cancelled caller is cancelled before its first step, too."""
    async with AsyncStatusStore.from_url(proxy.url, deadline=60.0) as store:
        await store.poll([1])
        proxy.hold("poll")
        for _ in range(MAX_IDLE + 1):
            sent = proxy.calls("poll")
            calling = asyncio.create_task(store.poll([1]))
            await until(lambda sent=sent: proxy.calls("poll") > sent, "it is sent", PATIENCE)
            for _ in range(2):
                for task in others():
                    task.cancel()
                await asyncio.sleep(0)
            assert calling.cancelled()
            await until(lambda: not others(), "nothing goes on")
        proxy.release()
        assert await store.poll([1]) == [None]
        await until(lambda: len(proxy.open_connections) == 2, "all but the last, with its two ends, are closed")


async def test_task_that_is_cancelled_at_once_starts():
    steps = []

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            steps.append("it gives back what it was given")

    task = callers.StartedTask(work())
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert steps


def pending_tasks():
    return {one for one in gc.get_objects() if type(one) is callers.LastingTask and not one.done()}


def test_loop_that_ends_keeps_no_task(server, monkeypatch):
    """Its end cancels all tasks, too. A mirror and a lease were left open."""
    monkeypatch.setattr(callers, "RESTART_DELAY", 0.0)

    async def leave_open():
        store = AsyncStatusStore.from_url(server.tcp)
        return await store.mirror().__aenter__(), await store.lease("prefill-0").__aenter__()

    before = pending_tasks()
    left = asyncio.run(leave_open())
    assert not pending_tasks() - before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # that they were left open
        del left
        gc.collect()


async def test_task_that_was_stopped_stays_stopped(store, monkeypatch):
    monkeypatch.setattr(callers, "RESTART_DELAY", 0.0)
    async with store.mirror(), store.failures(list), store.lease("prefill-0"):
        pass
    for _ in range(50):
        await asyncio.sleep(0)
        assert not any(type(task) is callers.LastingTask for task in asyncio.all_tasks())
