"""The server's clock is set forward by more than a lease lasts: the living keep theirs, the dead do not.

The heartbeats of the living have not failed, so the next one may be 0.3 ttl away: more than two heartbeats.
"""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import keys
from tests.support.leasing import LOST, ManualLease, begin_long_ago, pass_time, record

BOOT, FAIL = KVPoll.Bootstrapping, KVPoll.Failed
LEASES = keys.leases("default")
CALM = 0.3
"""Between heartbeats that succeed, in ttls."""


@pytest.fixture(params=[60.0, 600.0])
def leases(request, client, make_store):
    """Two owners; the first has a room. Both have just sent a heartbeat."""
    begin_long_ago(client)
    one, two = (ManualLease(make_store(), f"prefill-{number}", request.param).take() for number in (0, 1))
    one.store.update_status(1, BOOT)
    return one.heartbeat(), two.heartbeat(), request.param


def test_step_of_the_clock_costs_no_living_owner_its_lease(leases, client):
    one, two, ttl = leases
    pass_time(client, 1.1 * ttl)
    two.heartbeat()
    assert record(client, "prefill-0")[4], "suspected"
    pass_time(client, CALM * ttl)
    two.heartbeat()
    assert not one.heartbeat().lost
    assert one.store.get(1) is BOOT


def test_dead_owner_is_found_after_a_step_of_the_clock(leases, client):
    _, two, ttl = leases
    pass_time(client, 1.1 * ttl)
    two.heartbeat()
    pass_time(client, 0.36 * ttl)
    two.heartbeat()
    assert two.store.get(1) is FAIL
    assert two.store.failure_reason(1) == LOST


def test_dead_owner_is_found_as_soon_as_ever_without_one(leases, client):
    _, two, ttl = leases
    for _ in range(4):
        pass_time(client, CALM * ttl)
        two.heartbeat()
    assert record(client, "prefill-0")[4], "suspected"
    pass_time(client, 0.21 * ttl)
    two.heartbeat()
    assert two.store.get(1) is FAIL


def test_step_of_the_clock_costs_none_of_many_owners_its_lease(client, store):
    """More than one sweep looks at otherwise: whoever is looked at later would have less time."""
    begin_long_ago(client)
    ttl_ms, now_ms = 60_000, int(client.time()[0]) * 1000
    for number in range(1, 301):
        client.hset(LEASES, f"decode-{number}", f"{number} {ttl_ms} {ttl_ms // 10} {now_ms} 0")
        client.zadd(keys.due("default"), {f"decode-{number}": now_ms + ttl_ms})
    lease = ManualLease(store, "prefill-0", 60.0).take().heartbeat()
    pass_time(client, 1.1 * 60)
    for seconds in (0.2, CALM * 60 - 0.2, 0.2):
        lease.heartbeat()
        pass_time(client, seconds)
    lease.heartbeat()
    assert len([name for name in client.hkeys(LEASES) if name.startswith("decode-")]) == 300
