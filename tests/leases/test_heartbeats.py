"""The heartbeats of several leases of one process, in one call."""

from __future__ import annotations

import pytest

from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.lease_commands import RENEW, LeaseConfig, is_settled
from tests.support.contexts import context

TAG, LEASES = "ns", keys.leases("ns")
NOW = "17"
"""In milliseconds; the server's clock is far above."""
JUST_SWEPT = """
local clock = redis.call('TIME')
redis.call('HSET', KEYS[2], 'last sweep', clock[1] .. string.sub('00000' .. clock[2], -6, -4))
"""
"""The sweep is due 100 ms later: in the script itself, nothing comes between."""


def heartbeat(client, *holders, before=JUST_SWEPT):
    """The state of each lease of these owners and incarnations, in the reply to one call, right after ``before``."""
    calls = [
        LeaseConfig.checked(owner, 5.0, None).heartbeat_call(context(), TAG, incarnation)
        for owner, incarnation in holders
    ]
    assert all(calls[0].can_merge_with(call) for call in calls)
    call = calls[0].merged_with(calls[1:])
    return client.eval(before + RENEW.script.source, *call.words()[2:])[4:]


@pytest.fixture
def swept(server):
    """A client, and three leases, of which nobody looked at any."""
    client = server.client()
    for number in range(3):
        client.hset(LEASES, f"prefill-{number}", f"10{number} 5000 500 {NOW} 0")
    client.pexpire(LEASES, 600_000)
    return client


def renewed(client):
    return [owner for owner in range(3) if client.hget(LEASES, f"prefill-{owner}").split()[3] != NOW.encode()]


def test_each_lease_that_is_held_is_renewed(swept):
    """One of a former incarnation is not, nor one that is gone: the rest is for lease.lua."""
    holders = [("prefill-0", "100"), ("prefill-1", "99"), ("decode-7", "100"), ("prefill-2", "102")]
    assert heartbeat(swept, *holders) == [b"held", b"unknown", b"unknown", b"held"]
    assert renewed(swept) == [0, 2]
    assert not swept.hexists(LEASES, "decode-7")
    assert swept.hget(LEASES, "prefill-1") == f"101 5000 500 {NOW} 0".encode()


def test_sweep_that_is_due_is_told_to_the_first(swept):
    swept.hset(LEASES, "last sweep", NOW)
    assert heartbeat(swept, ("prefill-0", "100"), ("prefill-1", "101"), before="") == [b"due", b"held"]
    assert heartbeat(swept, ("prefill-0", "9"), ("prefill-1", "101"), before="") == [b"unknown", b"held"]


@pytest.mark.parametrize("count", [1, 200])
def test_as_many_leases_as_a_call_takes_are_renewed(swept, count):
    holders = [(f"decode-{number}", "7") for number in range(count)]
    swept.hset(LEASES, mapping={owner: f"7 5000 500 {NOW} 0" for owner, _ in holders})
    assert heartbeat(swept, *holders) == [b"held"] * count
    assert count <= RENEW.max_rooms


def test_only_a_held_lease_is_settled():
    assert [is_settled([state]) for state in (b"held", b"due", b"unknown")] == [True, False, False]
