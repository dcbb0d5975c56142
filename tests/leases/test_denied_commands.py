"""A permission that is taken away while stores work: the calls fail, and no key that other rooms share is deleted."""

from __future__ import annotations

import contextlib

import pytest
import redis
from redis.exceptions import ResponseError

from redis_kvpoll import KVPoll, ServerRefusedError, StatusStore
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.rank_commands import RankChange, RankIdentity, write_ranks
from tests.support import real
from tests.support.calls_of_scripts import GENERATION, replay, send
from tests.support.contexts import context

NS = "denied"
BOOT, MOVE = KVPoll.Bootstrapping, KVPoll.Transferring
OWNED, FEED = keys.owned(NS), keys.feed(NS)

pytestmark = pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])


@pytest.fixture
def client(kind):
    with real.shared(kind).client() as client:
        client.execute_command("ACL", "SETUSER", "half", "on", ">pw", "~*", "&*", "+@all")
        yield client
        client.acl_deluser("half")
        client.flushall()


@pytest.fixture
def open_store(kind, client):
    with contextlib.ExitStack() as stack:

        def open_store(**settings):
            url = f"redis://half:pw@127.0.0.1:{real.shared(kind).port}"
            return stack.enter_context(StatusStore.from_url(url, namespace=NS, **settings))

        yield open_store


def refuse(client, call, *commands):
    """Make a call while some commands are denied."""
    client.execute_command("ACL", "SETUSER", "half", *(f"-{command}" for command in commands))
    try:
        with pytest.raises(ServerRefusedError, match="NOPERM"):
            call()
    finally:
        client.execute_command("ACL", "SETUSER", "half", "+@all")


@pytest.mark.parametrize("commands", [("zadd",), ("zadd", "zcard")])
@pytest.mark.parametrize("way", ["open", "write"])
def test_new_room_keeps_list_of_others(open_store, client, way, commands):
    store = open_store()
    with store.lease("prefill-0", ttl=60):
        store.open(1, request="a")
        make = (lambda: store.open(2, request="b")) if way == "open" else (lambda: store.update_status(2, BOOT))
        refuse(client, make, *commands)
        assert client.zscore(OWNED, "1")


def test_joining_rank_keeps_list_of_others(open_store, client):
    first, second = (open_store(rank=rank, world_size=2) for rank in range(2))
    with first.lease("prefill-0", ttl=60), second.lease("prefill-1", ttl=60):
        for room in (1, 2):
            first.open(room, request="a")
        refuse(client, lambda: second.open(1, request="a"), "zscore")
        assert client.zscore(OWNED, "2")


def test_group_of_ranks_keeps_list_of_others(kind, client):
    words = {"policy": "strict", "mode": "none", "nonce": "ab12", "feed_length": "1000"}
    ranks = [RankIdentity(rank, 2, f"prefill-{rank}", f"170000000000000{rank + 1}") for rank in range(2)]
    tag = context(**words).namespace
    client.hset(keys.epoch(tag), "epoch", "1-ab12")
    for _, _, owner, incarnation in ranks:
        client.hset(keys.leases(tag), owner, f"{incarnation} 5000 500 1700000000000 0")
    _, _, owner, incarnation = ranks[0]
    mine = context(**words, rank="0", world_size="2", owner=owner, incarnation=incarnation)
    for room in (1, 2):
        send(client, replay(room), mine)
        client.hdel(keys.rooms(tag, [room])[0], "replayed")  # else its writes do not take the fast path
    client.execute_command("ACL", "SETUSER", "half", "-zscore")
    url = f"redis://half:pw@127.0.0.1:{real.shared(kind).port}"
    with redis.Redis.from_url(url) as denied, pytest.raises(ResponseError):
        send(denied, write_ranks([RankChange(1, ranks[1], GENERATION, BOOT)]), context(**words))
    assert client.zscore(keys.owned(tag), "2")


@pytest.mark.parametrize("way", ["open", "write", "clear"])
def test_denied_entry_keeps_feed(open_store, client, way):
    store = open_store()
    store.update_status(1, BOOT)
    calls = {
        "open": lambda: store.open(2, request="b"),
        "write": lambda: store.update_status(1, MOVE),
        "clear": lambda: store.clear(1),
    }
    refuse(client, calls[way], "xadd")
    assert client.xlen(FEED) == 1
