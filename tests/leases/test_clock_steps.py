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
from tests.support.leasing import LOST, ManualLease, begin_long_ago, now_ms, pass_time, record

BOOT, FAIL = KVPoll.Bootstrapping, KVPoll.Failed
LEASES, DUE = keys.leases("default"), keys.due("default")
INTERVAL = 0.3
"""Between heartbeats that succeed, in ttls."""
TTL = 120.0
"""As long as it may be for a gap to be remembered as half of it: MAX_GAP_MS is 60 s."""


class Schedule:
    """Lets time pass up to planned moments, so that the time that the test itself takes is a part of it."""

    def __init__(self, client):
        self._client = client
        self._began_ms = now_ms(client)
        self._planned = self._passed = 0.0

    def pass_time(self, seconds):
        self._planned += seconds
        left = self._planned - self._passed - (now_ms(self._client) - self._began_ms) / 1000
        if left > 0:
            pass_time(self._client, left)
            self._passed += left


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
    schedule, look = Schedule(client), two.heartbeat if sweep == "heartbeat" else two.store.reap
    schedule.pass_time(1.1 * ttl)
    look()
    assert record(client, "prefill-0")[4], "suspected"
    schedule.pass_time(INTERVAL * ttl)
    look()
    assert not one.heartbeat().lost
    assert one.store.get(1) is BOOT


@pytest.mark.parametrize("leases", [TTL], indirect=True)
def test_loss_of_the_due_times_shortens_no_suspicion(leases, client):
    one, two, ttl = leases
    schedule = Schedule(client)
    schedule.pass_time(1.1 * ttl)
    two.heartbeat()
    client.delete(DUE)
    schedule.pass_time(INTERVAL * ttl)
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
    ttl_ms, began_ms = int(1000 * TTL), now_ms(client)
    for number in range(1, 301):
        client.hset(LEASES, f"decode-{number}", f"{number} {ttl_ms} {ttl_ms // 10} {began_ms} 0")
        client.zadd(DUE, {f"decode-{number}": began_ms + ttl_ms})
    lease, schedule = ManualLease(store, "prefill-0", TTL).take().heartbeat(), Schedule(client)
    schedule.pass_time(1.1 * TTL)
    for seconds in (0.2, INTERVAL * TTL - 0.2, 0.2):
        lease.heartbeat()
        schedule.pass_time(seconds)
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
        ages, schedule = sorted(ages, reverse=True), Schedule(client)
        for owner, age, later in zip(owners, ages, [*ages[1:], 0.0], strict=True):
            owner.heartbeat()
            schedule.pass_time((age - later) * TTL)
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
            schedule.pass_time((at - now) * TTL)
            now = at
            look()
        assert not [owner for owner in owners if owner.lost]
