"""A server that takes no writes at all fails a call as a whole, with its own error: it is no fault of a room's key.

So a demoted primary's READONLY is waited for, and a full disk is named. Here the server lacks a replica, which makes it
refuse in the same way.
"""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from redis_kvpoll import KVPoll, StoreUnavailableError
from redis_kvpoll.engine.remedies import code_of
from redis_kvpoll.protocol import fenced_commands, keys, rank_commands, room_commands
from redis_kvpoll.protocol.rank_commands import RankChange
from tests.support import real
from tests.support.calls_of_scripts import GENERATION, RANKS, A, at, replay, send, table, take_lease
from tests.support.servers import room_keys

PREFILL = {"mode": "prefill"}


@pytest.fixture
def refusing(server):
    """A client, and a function that makes the server refuse every write; that ends after the test."""
    if server.is_fake:
        pytest.skip("fakeredis has no replicas")
    client = server.client()
    yield client, lambda: client.config_set("min-replicas-to-write", 1)
    client.config_set("min-replicas-to-write", 0)
    client.config_set("maxmemory", 0)


CALLS = {
    "Failed": room_commands.update_status(A, 0),
    "many": room_commands.update_many({7: 1, A: 0}),
    "fail": fenced_commands.fail(A, GENERATION, "why"),
    "abort": room_commands.abort(A, "why"),
    "length": room_commands.set_decode_prefix_len(A, 7),
    "fenced length": fenced_commands.set_decode_prefix_len(A, GENERATION, 7),
    "replayed length": replay(A, length="7", role="attached"),
    "touch of an absent room": room_commands.touch([7]),
}


@pytest.mark.parametrize("actor", ["plain", "owner", "rank"])
@pytest.mark.parametrize("name", CALLS)
def test_refusal_is_no_fault_of_a_key(refusing, actor, name):
    client, refuse = refusing
    context = table(actor, **PREFILL)
    take_lease(client, context)
    at(1)(client, context)
    before = room_keys(client)
    refuse()
    with pytest.raises(ResponseError) as raised:
        send(client, CALLS[name], context)
    assert code_of(raised.value) == "NOREPLICAS"
    assert room_keys(client) == before


SAYS = {
    "a length": [RankChange(A, RANKS[1], GENERATION, None, "", 7)],
    "a length and no news": [RankChange(A, RANKS[1], GENERATION, KVPoll.Bootstrapping, "", 7)],
}


def lengths(client):
    return client.hgetall(*keys.prefixes("ns", [A]))


@pytest.mark.parametrize("name", SAYS)
def test_length_of_a_rank_is_not_lost_in_silence(refusing, name):
    client, refuse = refusing
    send(client, replay(A), table("rank", rank="1"))
    command = rank_commands.write_ranks(SAYS[name])
    refuse()
    with pytest.raises(ResponseError) as raised:
        send(client, command, table())
    assert code_of(raised.value) == "NOREPLICAS"
    client.config_set("min-replicas-to-write", 0)
    client.config_set("maxmemory", 1)
    send(client, command, table())
    assert lengths(client) == {b"length:1": b"7", b"generation": b"%d" % GENERATION}, "at maxmemory it passes"


def test_replayed_length_passes_at_maxmemory(refusing):
    client, _ = refusing
    send(client, replay(A), table())
    client.config_set("maxmemory", 1)
    send(client, replay(A, length="7", role="attached"), table())
    assert lengths(client) == {b"length": b"7", b"generation": b"%d" % GENERATION}


def test_length_at_maxmemory_is_refused_by_name(refusing):
    client, _ = refusing
    send(client, replay(A), table())
    client.config_set("maxmemory", 1)
    with pytest.raises(ResponseError, match=r"OOM|maxmemory"):
        send(client, room_commands.set_decode_prefix_len(A, 7), table())
    assert lengths(client) == {}


def test_failure_waits_for_the_server(refusing, make_store):
    _, refuse = refusing
    store = make_store(mode="prefill", deadline=60.0)
    store.update_status(1, KVPoll.Bootstrapping)
    refuse()
    for call in (lambda: store.abort(1), lambda: store.update_status(1, 0), lambda: store.set_decode_prefix_len(1, 7)):
        with real.three_tries(), pytest.raises(StoreUnavailableError, match=r"3 tries; last: .*NOREPLICAS"):
            call()
