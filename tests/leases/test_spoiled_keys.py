"""What hands have written into the keys of the leases stops no lease, and no look at those that are due."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, ServerRefusedError
from redis_kvpoll.protocol import keys
from tests.support.leasing import NS, ManualLease, begin_long_ago, die

LEASES = keys.leases(NS)


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


@pytest.mark.parametrize("call", ["take", "reap"])
def test_call_refused_for_the_type_of_due_wrote_no_lease(client, make_store, server, call):
    if server.is_fake:
        pytest.skip("fakeredis has another error message")
    store = make_store()
    store.update_status(1, 1)
    client.delete(LEASES, keys.due(NS))
    client.set(keys.due(NS), "by hand", ex=600)
    with pytest.raises(ServerRefusedError, match="WRONGTYPE"):
        ManualLease(store).take() if call == "take" else store.reap()
    assert not client.exists(LEASES)


def test_dead_are_found_without_due_times(client, make_store):
    """The key of the due times alone was evicted, and no owner lives whose heartbeat would add its own again."""
    store = make_store()
    ManualLease(store).take().store.open(1, request="rid")
    other = make_store()
    assert other.reap() == 0
    client.delete(keys.due(NS))
    assert die(client, other) == 1
    assert other.get(1) is KVPoll.Failed
