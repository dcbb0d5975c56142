"""What hands have written into the keys of the leases stops no lease, and no look at those that are due."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import keys
from tests.support.leasing import LOST, NS, ManualLease, begin_long_ago, die, pass_time

BOOT, FAIL = KVPoll.Bootstrapping, KVPoll.Failed
LEASES, OWNED, DUE = keys.leases(NS), keys.owned(NS), keys.due(NS)


@pytest.fixture
def client(client):
    begin_long_ago(client)
    return client


@pytest.mark.parametrize("count", [16, 17, 20, 400])
def test_incarnations_differ_after_one_that_is_no_time(client, make_store, count):
    """A Lua number holds none of these exactly: one more is the same."""
    ManualLease(make_store()).take()
    client.hset(LEASES, "last incarnation", "9" * count)
    client.hset(LEASES, "prefill-1", f"{'9' * count} 5000 500 1 0")
    leases = [ManualLease(make_store(), f"prefill-{number}").take() for number in (1, 2)]
    one, two = (lease.incarnation for lease in leases)
    assert one != two
    assert {len(one), len(two)} == {16}
    assert client.hget(LEASES, "last incarnation") == two


@pytest.mark.parametrize("key", [OWNED, DUE])
def test_key_of_another_type_is_replaced(client, make_store, key):
    """A lease can be taken, is renewed and ends; one that is lost is found."""
    dead = ManualLease(make_store(), "prefill-1").take()
    client.delete(key)
    client.set(key, "by hand", px=60_000)
    held = ManualLease(make_store()).take()
    assert client.type(key) in ("zset", "none")
    held.store.update_status(1, BOOT)
    dead.store.update_status(2, BOOT)
    client.set(key, "by hand", px=60_000)
    held.heartbeat()
    dead.store.update_status(3, BOOT)
    assert not held.lost
    die(client, held.store)
    assert held.store.get(3) is FAIL
    client.set(key, "by hand", px=60_000)
    held.give_up()
    assert client.hget(LEASES, "prefill-0") is None


@pytest.mark.parametrize("is_taken", [True, False])
def test_lost_owner_is_found_although_the_due_times_were_lost(client, make_store, is_taken):
    """The key was evicted, for example. The only process that lives has a new lease, or none."""
    store = make_store()
    ManualLease(store).take()
    store.update_status(1, BOOT)
    other = make_store()
    other.reap()
    client.delete(DUE)
    if is_taken:
        ManualLease(other, "prefill-1").take().heartbeat()
    pass_time(client, 10)
    assert die(client, other, 0) == 1
    assert other.failure_reason(1) == LOST
