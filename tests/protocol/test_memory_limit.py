"""A server at its maxmemory: what ends, frees or restores a room passes, what creates one changes nothing.

There, a server refuses a command that may need memory only if it is the first write of its script.
"""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from redis_kvpoll import KVPoll, Outcome
from redis_kvpoll.protocol import fenced_commands, keys, lease_commands, owner_listing, refused_writes, room_commands
from redis_kvpoll.protocol.lease_commands import LeaseConfig
from tests.support.calls_of_scripts import _OWNER, GENERATION, A, absent, at, mark_lost, replay, send, table, take_lease
from tests.support.leasing import ManualLease
from tests.support.servers import room_keys

CREATED, UNCHANGED = Outcome.CREATED.value, Outcome.UNCHANGED.value
FAILED, ADVANCED, CLEARED = (outcome.value for outcome in (Outcome.FAILED, Outcome.ADVANCED, Outcome.CLEARED))


@pytest.fixture
def limited(server):
    """A function that brings the server to its maxmemory; it is lifted after the test."""
    if server.is_fake:
        pytest.skip("fakeredis has no maxmemory")
    client = server.client()
    yield client, lambda: client.config_set("maxmemory", 1)
    client.config_set("maxmemory", 0)


ENDS = {
    "update Success": (room_commands.update_status(A, 4), ADVANCED),
    "update Failed": (room_commands.update_status(A, 0), FAILED),
    "fenced Success": (fenced_commands.update(A, GENERATION, 4), ADVANCED),
    "fail": (fenced_commands.fail(A, GENERATION, "why"), FAILED),
    "record_failure": (room_commands.record_failure(A, "why"), 1),
    "abort": (room_commands.abort(A, "why"), FAILED),
    "reap": (lease_commands.reap([A], _OWNER["incarnation"], "why"), FAILED),
    "clear": (room_commands.clear(A), CLEARED),
    "fenced clear": (fenced_commands.clear(A, GENERATION), CLEARED),
}


@pytest.mark.parametrize("actor", ["plain", "owner", "both"])
@pytest.mark.parametrize("name", ENDS)
def test_what_ends_a_room_passes(limited, actor, name):
    client, limit = limited
    context = table(actor)
    if name == "reap" and not context.owner:
        pytest.skip("its rooms have no owner")
    take_lease(client, context)
    at(2)(client, context)
    if name == "reap":
        mark_lost(client)
    limit()
    command, expected = ENDS[name]
    once = command.spec.of(context).feed + command.spec.of(context).epoch
    assert send(client, command, context)[once] == expected


def without_our_part(client, context):
    """Our rank wrote before it had a lease."""
    send(client, replay(A), table("rank"))


RESTORES = {
    "room": (absent, replay(A), CREATED),
    "part": (without_our_part, replay(A), UNCHANGED),
    "clear": (at(2), replay(A, status="WaitingForInput", role="cleared"), UNCHANGED),
}


@pytest.mark.parametrize("name", RESTORES)
def test_what_a_replay_restores_passes(limited, name):
    """It was there before, and a store that cannot replay its rooms sends nothing else to their shard."""
    client, limit = limited
    context = table("both")
    fill, command, outcome = RESTORES[name]
    take_lease(client, context)
    fill(client, context)
    limit()
    assert send(client, command, context)[2] == outcome


def test_table_that_was_lost_as_a_whole_comes_back(limited, make_store):
    """With the settings of its namespace, without which a store sends nothing, and the lease."""
    client, limit = limited
    lease = ManualLease(make_store()).take()
    room = lease.store.open(A, request="rid")
    room.update(KVPoll.Transferring)
    client.flushall()
    limit()
    lease.heartbeat()
    assert not lease.lost
    assert lease.store.poll([A]) == [KVPoll.Transferring]
    assert room.update(KVPoll.Success).outcome is Outcome.ADVANCED
    assert client.pttl(keys.settings("default")) > 0


def act(client, context, action):
    """The reply to an action on the lease of a context."""
    call = lease_call(context, action)
    return client.eval(call.spec.script.source, *call.words()[2:])


def lease_call(context, action):
    owner, incarnation = context.owner, context.incarnation
    if action == "heartbeat":
        return LeaseConfig.checked(owner, 5, None).heartbeat_call(context, "ns", incarnation)
    if action == "sweep":
        return lease_commands.sweep(context, "ns")
    return LeaseConfig.checked(owner, 5, None).call(context, "ns", action, incarnation)


@pytest.mark.parametrize("action", ["heartbeat", "renew", "sweep", "leave", "drop", "reaped"])
def test_what_keeps_or_ends_a_lease_passes(limited, action):
    client, limit = limited
    context = table("owner")
    take_lease(client, context)
    at(2)(client, context)
    before = client.hgetall(keys.leases("ns"))
    limit()
    _, _, _, _, state, *found = act(client, context, action)
    after, owner = client.hgetall(keys.leases("ns")), context.owner.encode()
    assert state == {"heartbeat": b"due", "renew": b"held"}.get(action, b"none")
    assert (owner in after) == (action not in ("leave", "drop"))
    assert (b"lost" in found) == (action in ("leave", "drop"))
    if action in ("heartbeat", "renew"):
        assert after[owner] != before[owner]


def test_heartbeats_keep_since_when_there_is_no_memory(limited):
    """Until more than a minute without: then it is another time."""
    client, limit = limited
    context, key = table("owner"), keys.leases("ns")
    take_lease(client, context)
    act(client, context, "heartbeat")
    assert owner_listing.parse_full(client.hget(key, "memory full")) is None
    limit()
    act(client, context, "heartbeat")
    first = owner_listing.parse_full(client.hget(key, "memory full"))
    assert first.since == first.last > 1e9
    for back, is_same in ((50.0, True), (70.0, False)):
        client.config_set("maxmemory", 0)
        earlier = [int(1000 * (first.last - back - ago)) for ago in (100, 0)]
        client.hset(key, "memory full", f"{earlier[0]} {earlier[1]}")
        limit()
        act(client, context, "heartbeat")
        found = owner_listing.parse_full(client.hget(key, "memory full"))
        assert found.last >= first.last
        assert (found.since == earlier[0] / 1000) == is_same


def test_refused_writes_are_counted_there_too(limited):
    """A flood of late messages goes on while there is no memory."""
    client, limit = limited
    context, key = table(), keys.refused("ns")
    send(client, room_commands.abort(A, "late"), context)  # makes the key
    limit()
    for _ in range(2):
        send(client, room_commands.abort(A, "late"), context)
    assert refused_writes.parse(client.hgetall(key)).counts == {"skipped": 3}
    client.delete(key)
    send(client, room_commands.abort(A, "late"), context)
    found = refused_writes.parse(client.hgetall(key))
    assert (found.counts, found.last.room) == ({"skipped": 1}, A)
    assert client.pttl(key) > 0


def test_part_of_another_passes_to_its_heir(limited):
    """To the earliest, by number. The first write of the script is then that of the list of rooms."""
    client, limit = limited
    context = table("both")
    take_lease(client, context)
    at(2)(client, context)
    (room,), owned = keys.rooms("ns", [A]), keys.owned("ns")
    client.hset(room, "by:5", "999999999999999")  # of a clock before September 2001
    client.zadd(owned, {str(A): 5})
    mark_lost(client, "5")
    limit()
    assert send(client, lease_commands.reap([A], "5", "why"), context)[1] == Outcome.SKIPPED.value
    assert client.zscore(owned, str(A)) == 999999999999999
    assert client.hget(room, "status") == b"Bootstrapping"


@pytest.mark.parametrize("action", ["take", "extend"])
def test_taking_a_lease_is_refused(limited, action):
    client, limit = limited
    context = table("owner")
    send(client, replay(A), table())  # makes the epoch
    limit()
    with pytest.raises(ResponseError, match=r"OOM|maxmemory"):
        act(client, context, action)


CREATES = {
    "update": (absent, room_commands.update_status(A, 1)),
    "open": (absent, fenced_commands.open(A, "another", 1, 0)),
    "open after a failure": (at(0), fenced_commands.open(A, "another", 1, 0)),
}


@pytest.mark.parametrize("actor", ["plain", "owner", "both"])
@pytest.mark.parametrize("name", CREATES)
@pytest.mark.parametrize("with_length", [False, True])
def test_what_creates_a_room_is_refused(limited, actor, name, with_length):
    client, limit = limited
    context = table(actor)
    fill, command = CREATES[name]
    take_lease(client, context)
    send(client, fenced_commands.attach(A), context)
    fill(client, context)
    send(client, replay(7), context)  # makes the epoch
    if with_length:
        (prefix,) = keys.prefixes("ns", [A])
        client.hset(prefix, mapping={"length": 7, "generation": 5})
        client.pexpire(prefix, 600_000)
    before = room_keys(client), client.zrange(keys.owned("ns"), 0, -1), client.xlen(keys.feed("ns"))
    limit()
    with pytest.raises(ResponseError, match=r"OOM|maxmemory"):
        send(client, command, context)
    assert (room_keys(client), client.zrange(keys.owned("ns"), 0, -1), client.xlen(keys.feed("ns"))) == before
