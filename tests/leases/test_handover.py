"""A lease that passes from one store to another, or that ends because its holder is dead."""

from __future__ import annotations

import asyncio

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll, LeaseLostError
from redis_kvpoll.aio.hosted import HostedLease
from redis_kvpoll.aio.rank_group import AsyncRankGroup
from redis_kvpoll.engine.leases.lease_state import LeaseState
from redis_kvpoll.protocol.lease_commands import LeaseConfig
from tests.support import pace

OWNER = "h:1"
TTL = 60.0
"""Longer than any test: nothing here ends because a lease has expired, if not said otherwise."""
ROOMS = range(1, 9)


@pytest.fixture(params=[1, 3], ids=["one shard", "three shards"])
def stores(request, url):
    """A maker of stores on one table."""
    return lambda: AsyncStatusStore.from_url(url, namespace="t", policy="strict", shards=request.param)


def hosted(store, ttl=TTL, *stands_still):
    return HostedLease(store, LeaseConfig.checked(OWNER, ttl, None), *stands_still)


async def opened(store):
    for room in ROOMS:
        await store.open(room)


async def test_resumed_lease_keeps_its_rooms(stores):
    async with stores() as first, stores() as second:
        lease = await hosted(first).__aenter__()
        await opened(first)
        state = lease.state
        await lease.abandon(as_lost=False)
        heir = await hosted(second).resume(state)
        assert heir.incarnation == lease.incarnation
        room = await second.open(100)
        assert set(await second.poll(ROOMS)) == {KVPoll.Bootstrapping}
        await room.clear()
        await heir.aclose()
        assert set(await second.poll(ROOMS)) == {KVPoll.Failed}, "they left with the heir"
        assert await second.failure_reason(1) == f"owner {OWNER} left"


async def test_lease_that_another_has_taken_is_not_resumed(stores):
    async with stores() as first, stores() as second, stores() as third:
        lease = await hosted(first).__aenter__()
        state = lease.state
        await lease.abandon(as_lost=False)
        async with third.lease(OWNER, ttl=TTL):
            with pytest.raises(LeaseLostError):
                await hosted(second).resume(state)
            assert [owner.name for owner in await third.owners() if owner.state == "alive"] == [OWNER]


async def test_lease_that_was_lost_and_reaped_is_not_resumed(stores):
    """Nothing in the table tells of it any more but the epoch."""
    async with stores() as first, stores() as second:
        lease = await hosted(first).__aenter__()
        state = lease.state
        await lease.abandon(as_lost=True)
        with pytest.raises(LeaseLostError):
            await hosted(second).resume(state)


async def test_lease_of_a_lost_table_is_held_again(stores):
    """Its epoch is unknown there: the data was lost, and not the lease."""
    async with stores() as store:
        await store.get(1)
        lease = await hosted(store).resume(LeaseState("1700000000000000", ()))
        assert [owner.name for owner in await store.owners()] == [OWNER]
        await lease.aclose()


async def test_rooms_of_a_dead_holder_fail_at_once(stores):
    async with stores() as first, stores() as second:
        lease = await hosted(first).__aenter__()
        await opened(first)
        await lease.abandon(as_lost=True)
        assert set(await second.poll(ROOMS)) == {KVPoll.Failed}
        assert await second.failure_reason(1) == f"owner {OWNER} lost"
        assert [owner.state for owner in await second.owners()] == ["lost"]


@pytest.mark.parametrize("server", ["valkey"], indirect=True)
@pytest.mark.parametrize("is_rank", [False, True], ids=["a store's", "a rank's"])
async def test_rooms_of_a_dead_holder_fail_over_a_loss(stores, server, is_rank):
    """The call that ends its lease is the first to find the loss, and brings them back."""
    async with stores() as first, stores() as second, AsyncRankGroup(first) as group:
        if is_rank:
            lease = await group.hold((0, 2), LeaseConfig.checked(OWNER, TTL, None))
            for room in ROOMS:
                await group.open(room, "rid", KVPoll.Bootstrapping, lease.identity)
        else:
            lease = await hosted(first).__aenter__()
            await opened(first)
        server.client().flushall()
        await lease.abandon(as_lost=True)
        assert set(await second.poll(ROOMS)) == {KVPoll.Failed}
        assert await second.failure_reason(1) == f"owner {OWNER} lost"


async def test_lease_of_one_who_stands_still_expires(stores):
    """It is renewed again when that goes on, if it has not been lost by then."""
    stands_still = [False]
    async with stores() as first, stores() as second:
        lease = await hosted(first, pace.seconds(0.5), lambda: stands_still[0]).__aenter__()
        await opened(first)
        stands_still[0] = True
        async with second.lease("h:2", ttl=pace.seconds(0.5)):
            await until(failed_all(second))
        assert not lease.lost
        stands_still[0] = False
        await until(is_lost(lease))


async def until(condition):
    """Wait for a condition, an asynchronous generator of what it is at each turn."""
    async with asyncio.timeout(pace.patience(60)):
        async for is_so in condition:
            if is_so:
                return
            await asyncio.sleep(0.01)


async def failed_all(store):
    while True:
        yield set(await store.poll(ROOMS)) == {KVPoll.Failed}


async def is_lost(lease):
    while True:
        yield lease.lost
