"""Names that two processes use: what a heartbeat leaves behind, and that a refused lease takes no name."""

from __future__ import annotations

import asyncio

import pytest

from redis_kvpoll import AsyncStatusStore, InvalidInputError, StatusStore
from redis_kvpoll.protocol import keys
from tests.support.leasing import ManualLease, begin_long_ago, die, now_ms, pass_time

LEASES = keys.leases("default")


@pytest.fixture
def taken(make_store, server):
    """The lease of a process that lives, after another one has taken its name, and the other one's."""
    first = ManualLease(make_store()).take()
    with StatusStore(server.store_client()) as other:
        yield first, ManualLease(other).take()


def traces(client):
    return [name for name in client.hgetall(LEASES) if name.startswith("alive ")]


def test_heartbeat_for_a_taken_name_leaves_its_time(taken, client):
    first, _ = taken
    assert traces(client) == []
    first.heartbeat()
    assert first.lost
    assert traces(client) == [f"alive {first.incarnation}"]
    assert abs(int(client.hget(LEASES, f"alive {first.incarnation}")) - now_ms(client)) < 60_000


def test_owner_has_the_time_until_it_is_forgotten(taken, client):
    """An hour after its rooms had failed: nothing of it stays."""
    first, second = taken
    first.heartbeat()
    second.heartbeat()
    lost = next(owner for owner in second.store.owners() if owner.state == "lost")
    assert lost.contested_at > lost.since
    pass_time(client, 3700)
    second.store.reap()
    assert traces(client) == []


def test_lease_that_was_lost_to_nobody_has_none(make_store, server, client):
    """Nobody holds the name: the process was stopped for too long."""
    begin_long_ago(client)
    lease = ManualLease(make_store()).take()
    lease.store.open(1)
    with StatusStore(server.store_client()) as other:
        assert die(client, other) == 1
    lease.heartbeat()
    assert (lease.lost, traces(client)) == (True, [])


def test_second_lease_is_refused_before_it_takes_a_name(make_store, client):
    """The store's first lease is being taken; the name of the second is another process's."""
    held, store = ManualLease(make_store(), "decode-0").take(), make_store()
    store.counts()  # it knows its settings
    first = ManualLease(store, "prefill-0")
    taking = first.keeper.take()
    next(taking)
    with pytest.raises(InvalidInputError, match="already; one store holds one lease"):
        ManualLease(store, "decode-0").take()
    assert not held.heartbeat().lost
    assert [owner.name for owner in held.store.owners()] == ["decode-0"]
    taking.close()
    first.keeper.stop_renewing()
    assert ManualLease(store, "prefill-1").take().incarnation


async def test_second_entry_at_once_takes_no_name(server):
    async with (
        AsyncStatusStore(server.async_client()) as other,
        AsyncStatusStore(server.async_client()) as store,
        other.lease("decode-0") as held,
    ):
        first, second = store.lease("prefill-0"), store.lease("decode-0")
        found = await asyncio.gather(first.__aenter__(), second.__aenter__(), return_exceptions=True)
        assert found[0] is first
        assert isinstance(found[1], InvalidInputError)
        owners = {(owner.name, owner.incarnation, owner.state) for owner in await store.owners()}
        assert owners == {(lease.name, lease.incarnation, "alive") for lease in (first, held)}
        first.check()


async def test_entry_that_is_cancelled_leaves_the_store_free(server):
    async with AsyncStatusStore(server.async_client()) as store:
        await store.counts()
        entering = asyncio.ensure_future(store.lease("prefill-0").__aenter__())
        await asyncio.sleep(0)
        entering.cancel()
        await asyncio.wait([entering])
        async with store.lease("prefill-1") as lease:
            lease.check()
