"""The fast paths of write.lua and open.lua, beside the rest of each: they must agree wherever both could act.

So must advance_one.lua and write.lua, or the former does nothing, and says so.
"""

from __future__ import annotations

import itertools

import pytest

from redis_kvpoll.protocol import fenced_commands, keys, packed, room_commands
from tests.support.calls_of_scripts import GENERATION, A, replay, send, table, take_lease
from tests.support.heads import text_of

ROOM = keys.rooms("ns", [A])[0]
STATUSES = ("Bootstrapping", "WaitingForInput", "Transferring", "Success", "Failed")
OTHERS = (None, "Bootstrapping", "Success", "Failed", "cleared")


def states(client):
    """What a call has left, without times."""
    fields = client.hgetall(ROOM) if client.type(ROOM) == b"hash" else {}
    entries = (
        [entry for _, entry in client.xrange(keys.feed("ns"))] if client.type(keys.feed("ns")) == b"stream" else []
    )
    return (
        {name: value for name, value in fields.items() if name not in (b"updated_ms", b"opened", b"opened_ms")},
        entries,
        client.pttl(ROOM) > 600_000,
        client.pttl(keys.feed("ns")) > 0,
        client.zrange(keys.owned("ns"), 0, -1),
    )


def fill(client, actor, own, other, damage):
    context = table(actor, terminal_ttl_ms="300000", ttl_ms="900000")
    client.hset(keys.epoch("ns"), "epoch", "1-ab12")  # else each server's own
    take_lease(client, context)
    if own:
        send(client, replay(A, status=own), context)
    if other and context.rank:
        role = "cleared" if other == "cleared" else "creator"
        status = "Transferring" if other == "cleared" else other
        send(client, replay(A, status=status, role=role), table("rank", rank="1", ttl_ms="900000"))
    if client.hexists(ROOM, "version"):
        client.hset(ROOM, "version", "7")  # else a clock's time
    damage(client)
    for key in client.keys("*"):
        if client.pttl(key) < 0:
            client.pexpire(key, 600_000)
    return context


def nothing(client):
    pass


def by_hand(name, value):
    return lambda client: client.hset(ROOM, name, value)


DAMAGES = {
    "none": nothing,
    "no feed": lambda client: client.delete(keys.feed("ns")),
    "feed of another type": lambda client: (client.delete(keys.feed("ns")), client.set(keys.feed("ns"), "x", ex=600)),
    "no lease": lambda client: client.delete(keys.leases("ns")),
    "another lease": lambda client: client.hset(keys.leases("ns"), "prefill-0", "1 5000 500 1700000000000 0"),
    "no part": lambda client: client.hdel(ROOM, "by:0"),
    "version": by_hand("version", "v1"),
    "counts": by_hand("counts", "9"),
    "world size": by_hand("world_size", "3"),
    "own status": by_hand("status:0", "Done"),
    "generation": by_hand("generation", "1800000000000000"),
    "another type": lambda client: (client.delete(ROOM), client.set(ROOM, "x", ex=600)),
}


@pytest.mark.parametrize("actor", ["rank", "owner", "both"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_fast_path_and_the_rest_agree(server, damage, actor):
    client = server.client()
    own_statuses = (None, *STATUSES) if damage == "none" else ("Bootstrapping", "Transferring")
    others = OTHERS if damage == "none" and actor != "owner" else ("WaitingForInput",)
    fast = text_of("include/advance")
    for own, other, status, is_fenced in itertools.product(own_statuses, others, range(5), (True, False)):
        if own is None and (other in (None, "cleared") or actor == "owner"):
            continue  # created, with a generation of its own
        found = []
        for removed in ("", fast):
            client.flushall()
            context = fill(client, actor, own, other, DAMAGES[damage])
            command = (
                fenced_commands.update(A, GENERATION, status) if is_fenced else room_commands.update_status(A, status)
            )
            (call,) = command.calls(context)
            assert fast in call.spec.script.source
            reply = client.eval(call.spec.script.source.replace(removed, ""), *call.words()[2:])
            last = client.xrevrange(keys.feed("ns"), count=1) if client.type(keys.feed("ns")) == b"stream" else None
            assert reply[0] is None or reply[0] == last[0][0]
            found.append((list(map(str, reply[1:])), states(client)))
        assert found[0] == found[1], (own, other, status, is_fenced)


def advance_one(client, context, status):
    ttl_ms = context.terminal_ttl_ms if status == 4 else context.ttl_ms
    words = packed.ADVANCE_ONE.call(context, "ns", [A], [ttl_ms, STATUSES[status - 1], GENERATION], [0]).words()
    return client.eval(packed.ADVANCE_ONE.script.source, *words[2:])


@pytest.mark.parametrize("actor", ["plain", "owner"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_advance_one_and_write_agree(server, damage, actor):
    client = server.client()
    for own, status in itertools.product((None, *STATUSES), range(1, 5)):
        found = []
        for is_short in (True, False):
            client.flushall()
            context = fill(client, actor, own, None, DAMAGES[damage])
            before, reply = states(client), None
            if is_short:
                reply = advance_one(client, context, status)
                is_usual = damage in ("none", "no part", "own status", "version", "counts") and own in STATUSES[:4]
                assert (reply is not None) >= is_usual, (own, status)
                assert reply is not None or before == states(client)
            if reply is None:
                (call,) = fenced_commands.update(A, int(GENERATION), status).calls(context)
                reply = client.eval(call.spec.script.source, *call.words()[2:])
            found.append((list(map(str, reply[1:])), reply[0] is None, states(client)))
        assert found[0] == found[1], (own, status)


OPENINGS = {
    "none": nothing,
    "a room": lambda client: send(client, replay(A, status="Failed"), table()),
    "a prefix length": lambda client: client.hset(keys.prefixes("ns", [A])[0], "length", "7"),
    "no epoch": lambda client: client.delete(keys.epoch("ns")),
    "a former generation": lambda client: client.hset(keys.epoch("ns"), "generation", "1600000000000000"),
    "a later generation": lambda client: client.hset(keys.epoch("ns"), "generation", "1999999999999999"),
    "a generation by hand": lambda client: client.hset(keys.epoch("ns"), "generation", "1z99999999999999"),
    "a list of another type": lambda client: (client.delete(keys.owned("ns")), client.set(keys.owned("ns"), "x")),
    "entries from the future": lambda client: client.xadd(keys.feed("ns"), {"7": "Success"}, "1999999999999-5"),
    **{name: DAMAGES[name] for name in ("no feed", "feed of another type", "no lease", "another lease")},
}


def opened(client, call, removed):
    """What an opening has told and left, without what the clock gives."""
    reply = client.eval(call.spec.script.source.replace(removed, ""), *call.words()[2:])
    fields = client.hgetall(ROOM) if client.type(ROOM) == b"hash" else {}
    generation, status = fields.pop(b"generation", b""), client.type(keys.feed("ns"))
    last = client.xrevrange(keys.feed("ns"), count=1) if status == b"stream" else []
    if reply[2] == 1:
        assert reply[4] == generation == client.hget(keys.epoch("ns"), "generation")
        assert reply[1] == client.hget(keys.epoch("ns"), "epoch")
        assert reply[8] == fields[b"opened"]
        assert reply[0] in (None, last[0][0] if last else None)
        assert reply[0] in (None, reply[8])
        reply[4], words = b"g", [b"g" if word == generation else word for word in _flat(last)]
    else:
        words = _flat(last)
    is_later = generation > b"1999999999999999"
    ttls = [client.pttl(key) > 50_000 for key in (ROOM, keys.feed("ns"), keys.epoch("ns"))]
    owned = client.zrange(keys.owned("ns"), 0, -1, withscores=True) if client.type(keys.owned("ns")) == b"zset" else []
    return (
        [word for at, word in enumerate(reply) if at not in (0, 1, 5, 8)],
        {name: value for name, value in fields.items() if name not in (b"updated_ms", b"opened_ms", b"opened")},
        (words, is_later, ttls, owned, reply[0] is None),
    )


def _flat(last):
    return [word for _, found in last for pair in found.items() for word in pair]


@pytest.mark.parametrize("actor", ["plain", "rank", "owner", "both", "alone"])
@pytest.mark.parametrize("damage", OPENINGS)
def test_fast_path_of_open_and_the_rest_agree(server, damage, actor):
    client = server.client()
    fast = text_of("include/quick_open")
    alone = {"rank": "0", "world_size": "1"}
    for status, seen, length in itertools.product((1, 2), (0, 1_600_000_000_000_001, 1_999_999_999_999_998), "05"):
        found = []
        for removed in ("", fast):
            client.flushall()
            context = table("plain" if actor == "alone" else actor, feed_length=f"{int(length) * 100}")
            if actor == "alone":
                context = table("plain", **alone)
            client.hset(keys.epoch("ns"), "epoch", "1-ab12")
            take_lease(client, context)
            client.xadd(keys.feed("ns"), {"7": "Success"}, "1600000000000-0")
            OPENINGS[damage](client)
            for key in client.keys("*"):
                if client.pttl(key) < 0:
                    client.pexpire(key, 400_000)
            (call,) = fenced_commands.open(A, "rid", status, seen).calls(context)
            assert fast in call.spec.script.source
            found.append(opened(client, call, removed))
        assert found[0] == found[1], (status, seen, length)
