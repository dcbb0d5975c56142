"""The server's clock is set forward, or back, by any time: the living keep their leases, the dead do not.

The heartbeats of the living have not failed, so the next one may be 0.3 ttl away: more than two heartbeats.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.protocol import keys
from tests.support.fuzzing import examples
from tests.support.leasing import LOST, ManualLease, begin_long_ago, pass_time, record

BOOT, FAIL = KVPoll.Bootstrapping, KVPoll.Failed
LEASES, DUE = keys.leases("default"), keys.due("default")
INTERVAL = 0.3
"""Between heartbeats that succeed, in ttls."""
TTL = 60.0


@pytest.fixture(params=[TTL, 600.0])
def leases(request, client, make_store):
    """Two owners; the first has a room. Both have just sent a heartbeat."""
    begin_long_ago(client)
    one, two = (ManualLease(make_store(), f"prefill-{number}", request.param).take() for number in (0, 1))
    one.store.update_status(1, BOOT)
    return one.heartbeat(), two.heartbeat(), request.param


@pytest.mark.parametrize("sweep", ["heartbeat", "reap"])
def test_step_of_the_clock_costs_no_living_owner_its_lease(leases, client, sweep):
    """Whoever looks first: an agent reaps the other role's table more often than heartbeats come."""
    one, two, ttl = leases
    look = two.heartbeat if sweep == "heartbeat" else two.store.reap
    pass_time(client, 1.1 * ttl)
    look()
    assert record(client, "prefill-0")[4], "suspected"
    pass_time(client, INTERVAL * ttl)
    look()
    assert not one.heartbeat().lost
    assert one.store.get(1) is BOOT


@pytest.mark.parametrize("leases", [TTL], indirect=True)
def test_loss_of_the_due_times_shortens_no_suspicion(leases, client):
    one, two, ttl = leases
    pass_time(client, 1.1 * ttl)
    two.heartbeat()
    client.delete(DUE)
    pass_time(client, INTERVAL * ttl)
    two.heartbeat()
    assert not one.heartbeat().lost


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
        pass_time(client, INTERVAL * ttl)
        two.heartbeat()
    assert record(client, "prefill-0")[4], "suspected"
    pass_time(client, 0.21 * ttl)
    two.heartbeat()
    assert two.store.get(1) is FAIL


def test_step_of_the_clock_costs_none_of_many_owners_its_lease(client, store):
    """A sweep looks at 200: the next one must give those that it looks at the same time."""
    begin_long_ago(client)
    ttl_ms, now_ms = 60_000, int(client.time()[0]) * 1000
    for number in range(1, 301):
        client.hset(LEASES, f"decode-{number}", f"{number} {ttl_ms} {ttl_ms // 10} {now_ms} 0")
        client.zadd(DUE, {f"decode-{number}": now_ms + ttl_ms})
    lease = ManualLease(store, "prefill-0", TTL).take().heartbeat()
    pass_time(client, 1.1 * TTL)
    for seconds in (0.2, INTERVAL * TTL - 0.2, 0.2):
        lease.heartbeat()
        pass_time(client, seconds)
    lease.heartbeat()
    assert len([name for name in client.hkeys(LEASES) if name.startswith("decode-")]) == 300


@pytest.mark.parametrize("server", ["fakeredis", "valkey"], indirect=True)
@given(
    st.floats(-3.0, 4.0),
    st.lists(st.floats(0.0, INTERVAL), min_size=2, max_size=4),
    st.sampled_from([0.1, 0.17, None]),
)
@examples(40)
def test_living_owners_keep_their_leases_whatever_the_step(server, step, ages, reaps_every):
    """``ages``: how long ago the last heartbeat of each owner was, at the step. All times are in ttls."""
    client = server.client(decode_responses=True)
    client.flushall()
    begin_long_ago(client)
    with ExitStack() as stack:
        owners = [
            ManualLease(stack.enter_context(StatusStore(server.store_client())), f"prefill-{number}", TTL).take()
            for number in range(len(ages))
        ]
        ages = sorted(ages, reverse=True)
        for owner, age, later in zip(owners, ages, [*ages[1:], 0.0], strict=True):
            owner.heartbeat()
            pass_time(client, (age - later) * TTL)
        pass_time(client, step * TTL)
        events = [
            (INTERVAL - age + INTERVAL * turn, owner.heartbeat)
            for owner, age in zip(owners, ages, strict=True)
            for turn in range(5)
        ]
        if reaps_every is not None:
            events += [(reaps_every * turn, owners[0].store.reap) for turn in range(12)]
        now = 0.0
        for at, look in sorted(events, key=lambda event: event[0]):
            pass_time(client, (at - now) * TTL)
            now = at
            look()
        assert not [owner for owner in owners if owner.lost]
