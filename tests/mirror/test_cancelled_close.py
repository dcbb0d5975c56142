"""An ``aclose`` that is cancelled, as by a time-out around it, leaves no task: on a cluster each shard has one."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll
from tests.support import cluster as clusters
from tests.support import pace, real

ROOMS = range(200)
SHARDS = 8


@pytest.fixture
def cluster():
    with real.World("sync") as world:
        yield clusters.shared_in(world)


def following():
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("kvpoll-follow")]


async def cancelled(closing):
    """Cancel a call where it waits first."""
    task = asyncio.ensure_future(closing)
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("what", ["mirror", "failures"])
def test_cancelled_close_ends_every_follower(cluster, what):
    async def run():
        store = AsyncStatusStore.from_url(cluster.url, namespace="cancelled", shards=SHARDS, deadline=60.0)
        await store.update_many(dict.fromkeys(ROOMS, KVPoll.Bootstrapping))
        opened = store.mirror() if what == "mirror" else store.failures(lambda: ROOMS)
        await opened.__aenter__()
        tasks = following()
        assert len(tasks) == SHARDS
        await cancelled(opened.aclose())
        _, left = await asyncio.wait(tasks, timeout=pace.patience(20))
        assert not left
        await store.aclose()

    asyncio.run(run())
