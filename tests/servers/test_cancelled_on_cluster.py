"""A call of asyncio to a cluster is cancelled before its node answers: what the others pay for it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll
from redis_kvpoll.protocol.keys import tag
from tests.support import cluster, pace, real
from tests.support.calls import calls_may_take, until
from tests.support.internals import idle_connections_in, pool_at, slot_map_of

MOVE = KVPoll.Transferring


@pytest.fixture
def nodes():
    with real.World("sync") as world:
        yield cluster.shared_in(world)


@contextlib.asynccontextmanager
async def opened(nodes, deadline):
    """A store that knows the nodes, and room 1."""
    async with AsyncStatusStore.from_url(nodes.url, namespace="prod", deadline=deadline) as store:
        with calls_may_take(store, 60.0):
            await store.update_status(1, MOVE), await store.get(1)
        yield store


@contextlib.asynccontextmanager
async def call_cancelled(nodes, store):
    """The node of a room answers no calls, and one that was sent there has been cancelled."""
    owner = nodes.owner(tag("prod", 1, 1))
    pool = pool_at(store, nodes.nodes[nodes.clients.index(owner)].port)
    owner.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    try:
        task = asyncio.create_task(store.get(1))
        await until(lambda: not idle_connections_in(pool), "it is sent")
        task.cancel()
        await asyncio.wait([task])
        yield
    finally:
        owner.execute_command("CLIENT", "UNPAUSE")


def map_reads(nodes):
    """How often the nodes were asked for the slot map."""
    counts = [client.info("commandstats").get("cmdstat_cluster|slots", {"calls": 0}) for client in nodes.clients]
    return sum(count["calls"] for count in counts)


async def test_slot_map_is_not_read_again(nodes):
    async with opened(nodes, 60.0) as store:
        before = map_reads(nodes)
        async with call_cancelled(nodes, store):
            pass
        assert await store.get(1) is MOVE
        assert map_reads(nodes) == before


async def test_slot_map_is_read_again_if_no_reply_comes(nodes):
    """The slot may have another owner now, and each caller may be too impatient to learn that by itself."""
    async with opened(nodes, pace.seconds(2)) as store:
        before = map_reads(nodes)
        async with call_cancelled(nodes, store):
            await until(lambda: slot_map_of(store).stale, "its deadline has passed", 20)
        assert await store.get(1) is MOVE
        assert map_reads(nodes) == before + 1
