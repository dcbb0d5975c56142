"""update_one.lua does what update.lua does, in every case: or nothing, and says so."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import keys, packed, room_commands
from tests.support.calls_of_scripts import A, send, table
from tests.support.feeds import entries

ROOM, FEED, EPOCH = keys.rooms("ns", [A])[0], keys.feed("ns"), keys.epoch("ns")
BOOT, INPUT, MOVE, DONE = list(KVPoll)[1:]
NOW = 1_700_000_000_000
FUTURE_MS = 8_000_000_000_000
"""Of an entry or a generation that is ahead of every clock."""


@pytest.fixture
def client(server):
    return server.client()


def room(**fields):
    made = {"generation": f"{NOW}000", "opened_ms": NOW, "updated_ms": NOW, **fields}
    return lambda client: client.hset(ROOM, mapping=made) and client.pexpire(ROOM, 100_000)


LIVE = {status.name: room(status=status.name) for status in (BOOT, INPUT, MOVE, DONE)}
ROOMS = {
    "absent": lambda client: None,
    **LIVE,
    "Failed": room(status="Failed", reason="why", failed_by="me"),
    **{f"status {junk!r}": room(status=junk) for junk in ("", "S", "for", "Trans", "success", "Success ", "4")},
    "without status": room(),
    **{f"ranks, {status}": room(status=status, world_size="2") for status in ("Failed", "Bootstrapping", "Success")},
    "another type": lambda client: client.set(ROOM, "Success", px=100_000),
}
SHARDS = {
    "usual": lambda client: None,
    "no feed": lambda client: client.delete(FEED),
    "feed of another type": lambda client: client.delete(FEED) and client.set(FEED, "x", px=100_000),
    "feed ahead of the clock": lambda client: client.xadd(FEED, {"a": "b"}, id=f"{FUTURE_MS}-7"),
    "feed at its last id": lambda client: client.xadd(FEED, {"a": "b"}, id="18446744073709551615-18446744073709551615"),
    "feed beyond all clocks": lambda client: client.xadd(FEED, {"a": "b"}, id="9400000000000000-1"),
    "feed beyond all generations": lambda client: client.xadd(FEED, {"a": "b"}, id="9400000000000-1"),
    "generation ahead": lambda client: client.hset(EPOCH, "generation", f"{FUTURE_MS}000"),
    **{
        f"generation {junk!r}": lambda client, junk=junk: client.hset(EPOCH, "generation", junk)
        for junk in ("", "x", "0700000000000123", "17000000000001234", "9100000000000000", "170000000000012x")
    },
    "no generation": lambda client: client.hdel(EPOCH, "generation"),
    "epoch of another type": lambda client: client.delete(EPOCH) and client.set(EPOCH, "x", px=100_000),
}
USUAL = ("usual", "feed ahead of the clock", "generation ahead")


def prepared(client, in_room, in_shard):
    client.flushall()
    client.xadd(FEED, {"begun": "1"}, id=f"{NOW}-0")
    client.hset(EPOCH, mapping={"epoch": "1-x", "generation": f"{NOW}123"})
    for key in (FEED, EPOCH):
        client.pexpire(key, 600_000)
    ROOMS[in_room](client)
    SHARDS[in_shard](client)


def state(client):
    """What is in the table, but for times, which differ from call to call, and the room's TTL in steps of 100 s."""
    fields = client.hgetall(ROOM) if client.type(ROOM) == b"hash" else client.get(ROOM)
    epoch = client.hgetall(EPOCH) if client.type(EPOCH) == b"hash" else client.get(EPOCH)
    feed = [words for _, words in entries(client, "ns")] if client.type(FEED) == b"stream" else client.get(FEED)
    if isinstance(fields, dict):
        fields = {
            name: len(value) if name.endswith((b"_ms", b"generation")) else value for name, value in fields.items()
        }
    if isinstance(epoch, dict) and b"generation" in epoch:
        epoch[b"generation"] = len(epoch[b"generation"])
    ttl = client.ttl(ROOM)
    return fields, epoch, feed, ttl if ttl < 0 else -(-ttl // 100)


def update_one(client, status):
    """The reply, as update.lua would have given it; None if it has done nothing."""
    context = table(ttl_ms="600000", terminal_ttl_ms="300000")
    call = packed.UPDATE_ONE.call(
        context, "ns", [A], [*(("300000",) if status is DONE else ("600000",)), status.name], [0]
    )
    reply = client.eval(packed.UPDATE_ONE.script.source, *call.words()[2:])
    return None if reply is None else packed.update_reply(reply, status.name)


def update(client, status, policy):
    return send(client, room_commands.update_status(A, status), table(policy=policy, terminal_ttl_ms="300000"))


@pytest.mark.parametrize("policy", ["compat", "strict"])
@pytest.mark.parametrize("in_shard", SHARDS)
def test_every_case_equals_update(client, in_shard, policy):
    """All states of a room, statuses and policies, and all that hands can leave in the shard's keys."""
    done = set()
    for in_room in ROOMS:
        for status in KVPoll:
            prepared(client, in_room, in_shard)
            before = state(client)
            reply = update_one(client, status)
            after = state(client)
            if reply is None:
                assert after == before, (in_room, status)
                continue
            done.add((in_room, status))
            prepared(client, in_room, in_shard)
            full = update(client, status, policy)
            assert [reply[0] is None, *reply[1:]] == [full[0] is None, *full[1:]], (in_room, status)
            assert after == state(client), (in_room, status)
    if in_shard in USUAL:
        usual = {("absent", BOOT), ("absent", INPUT), *((name, status) for name in LIVE for status in list(KVPoll)[1:])}
        assert usual <= done


@pytest.mark.parametrize("in_shard", USUAL)
def test_generation_and_times_go_on(client, in_shard):
    """The generation is above the last one; times are the entry's, and so never before those of an earlier entry."""
    prepared(client, "absent", in_shard)
    last = int(client.hget(EPOCH, "generation"))
    for number, status in enumerate((BOOT, BOOT, MOVE, INPUT, DONE)):
        feed_id, *_ = update_one(client, status)
        fields = client.hgetall(ROOM)
        if number == 0:
            assert int(fields[b"generation"]) == int(client.hget(EPOCH, "generation")) > last
            assert client.ttl(FEED) > 80_000
            assert client.ttl(EPOCH) > 600_000
        if feed_id is not None:
            assert fields[b"updated_ms"] == feed_id.partition(b"-")[0]
            assert client.xrange(FEED, feed_id, feed_id)


def test_times_after_an_entry_by_hand_are_the_clocks(client):
    for in_shard in ("feed beyond all clocks", "feed beyond all generations"):
        prepared(client, "absent", in_shard)
        update_one(client, BOOT)
        seconds, _ = client.time()
        assert all(abs(int(client.hget(ROOM, name)) / 1000 - seconds) < 600 for name in ("opened_ms", "updated_ms"))


def test_feed_keeps_its_length(client):
    prepared(client, "absent", "usual")
    for _ in range(1000):
        for status in (BOOT, INPUT):
            update_one(client, status)
        client.delete(ROOM)
    assert client.xlen(FEED) < 500
