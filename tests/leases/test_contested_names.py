"""What a heartbeat leaves behind of a process whose name another one has taken: the proof that both live."""

from __future__ import annotations

import pytest

from redis_kvpoll import StatusStore
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
