"""A server at its maxmemory: what ends or frees a room passes, what creates one is refused and changes nothing.

There, a server refuses a command that may need memory only if it is the first write of its script.
"""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from redis_kvpoll import Outcome
from redis_kvpoll.protocol import fenced_commands, keys, lease_commands, room_commands
from tests.support.calls_of_scripts import _OWNER, GENERATION, A, absent, at, replay, send, table, take_lease
from tests.support.servers import room_keys

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
    limit()
    command, expected = ENDS[name]
    once = command.spec.of(context).feed + command.spec.of(context).epoch
    assert send(client, command, context)[once] == expected


CREATES = {
    "update": (absent, room_commands.update_status(A, 1)),
    "open": (absent, fenced_commands.open(A, "another", 1, 0)),
    "open after a failure": (at(0), fenced_commands.open(A, "another", 1, 0)),
    "replay": (absent, replay(A)),
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
        client.pexpire(prefix, 60_000)
    before = room_keys(client), client.zrange(keys.owned("ns"), 0, -1), client.xlen(keys.feed("ns"))
    limit()
    with pytest.raises(ResponseError, match=r"OOM|maxmemory"):
        send(client, command, context)
    assert (room_keys(client), client.zrange(keys.owned("ns"), 0, -1), client.xlen(keys.feed("ns"))) == before
