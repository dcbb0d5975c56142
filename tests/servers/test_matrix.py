"""Fifteen things that every supported server does, under RESP2 and RESP3, for a user with the rule of kvpoll acl."""

from __future__ import annotations

import itertools

import pytest
import redis

from redis_kvpoll import KVPoll, NamespaceMismatchError, Outcome, RoomBusyError, StatusStore
from redis_kvpoll.transport.embedded import EmbeddedServer
from tests.support import real
from tests.support.calls import works
from tests.support.leasing import ManualLease
from tests.support.servers import KINDS, MORE_KINDS, program

SERVERS = [kind for kind in (*KINDS, *MORE_KINDS) if kind != "fakeredis"]
BOOT, DONE, FAIL = KVPoll.Bootstrapping, KVPoll.Success, KVPoll.Failed
_numbers = itertools.count()


class Bench:
    """Makes stores of one namespace, which no other test has."""

    def __init__(self, server, protocol):
        self.server = server
        self.url = f"{server.tcp}?protocol={protocol}"
        self.namespace = f"matrix-{next(_numbers)}"
        self.made = []

    def store(self, **options):
        self.made.append(StatusStore.from_url(self.url, namespace=self.namespace, deadline=30.0, **options))
        return self.made[-1]


def writes_merge(bench):
    store = bench.store()
    assert store.update_status(1, 3).outcome is Outcome.CREATED
    assert store.update_status(1, 1).outcome is Outcome.UNCHANGED
    assert store.clear(1) is KVPoll.Transferring


def batches(bench):
    store = bench.store(shards=4)
    assert len(store.update_many(dict.fromkeys(range(1500), 1))) == 1500
    assert store.poll(range(1501)).count(None) == 1
    assert len(store.clear_many(range(1500))) == 1500


def failures(bench):
    store = bench.store()
    store.update_status(1, 1)
    assert store.abort(1, "why ☃").outcome is Outcome.FAILED
    assert store.failure_reason(1) == "why ☃"


def entries(bench):
    store = bench.store(ttl=100)
    store.update_status(2**64 - 1, 1)
    assert 0 < store.entry(2**64 - 1).ttl <= 100


def prefix_lengths(bench):
    store = bench.store(mode="prefill")
    store.set_decode_prefix_len(1, 7)
    assert (store.pop_decode_prefix_len(1), store.pop_decode_prefix_len(1)) == (7, 0)


def listings(bench):
    store = bench.store(shards=3)
    store.update_many({1: 1, 2: 4, 3: 4})
    assert (sorted(store.rooms()), sorted(store.rooms(DONE)), store.counts()[DONE]) == ([1, 2, 3], [2, 3], 2)


def settings(bench):
    bench.store(policy="strict", feed_length=50).get(1)
    assert bench.store().settings().feed_length == 50
    with pytest.raises(NamespaceMismatchError):
        bench.store(policy="compat").get(1)


def generations(bench):
    store = bench.store()
    room = store.open(1, request="one")
    with pytest.raises(RoomBusyError):
        store.open(1, request="two")
    assert room.clear().outcome is Outcome.CLEARED
    assert room.update(4).outcome is Outcome.STALE


def ranks(bench):
    zero, one = (bench.store(rank=rank, world_size=2) for rank in (0, 1))
    zero.update_status(1, 4)
    assert one.consensus([1])[0].status is BOOT
    one.update_status(1, 4)
    assert zero.consensus([1])[0].status is DONE


def leases(bench):
    held = ManualLease(bench.store(), ttl=600.0).take()
    held.store.update_status(1, 1)
    assert [(owner.state, owner.rooms) for owner in bench.store().owners()] == [("alive", 1)]
    assert bench.store().reap() == 0
    held.release()
    assert bench.store().owners() == []


def mirrors(bench):
    store = bench.store(shards=2)
    store.update_many({1: 1, 2: 1})
    with bench.store().mirror() as mirror:
        assert (mirror.get(1), mirror.get(2)) == (BOOT, BOOT)
        store.update_status(2, 4)
        assert mirror.wait(2, DONE) is DONE


def waits(bench):
    store = bench.store()
    store.update_status(1, 4)
    assert bench.store().wait(1, 3) is DONE


def feeds(bench):
    store = bench.store()
    store.update_status(1, 1)
    news = bench.store().tail(1)
    assert next(news).room == 1
    store.update_status(2, 1)
    assert next(news).room == 2
    assert [change.status for change in store.history(1)] == [BOOT]


def forgotten_scripts(bench):
    store = bench.store()
    store.update_status(1, 1)
    with bench.server.client() as client:
        client.script_flush()
    assert store.clear(1) is BOOT


def lost_data(bench):
    store = bench.store()
    room = store.open(1)
    with bench.server.client() as client:
        client.flushall()
    assert room.update(4).status is DONE
    assert bench.store(read_only=True).get(1) is DONE


THINGS = (writes_merge, batches, failures, entries, prefix_lengths, listings, settings, generations, ranks, leases)
THINGS += (mirrors, waits, feeds, forgotten_scripts, lost_data)


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing.__name__)
@pytest.mark.parametrize("protocol", [2, 3], ids=["RESP2", "RESP3"])
@pytest.mark.parametrize("kind", SERVERS)
def test_server_does_it(kind, protocol, thing):
    bench = Bench(real.shared(kind), protocol)
    try:
        thing(bench)
    finally:
        for store in bench.made:
            store.close()
        left = real.emptied(bench.server)
    assert left == [], "keys without a TTL"


def test_there_are_fifteen():
    assert len(THINGS) == 15


def test_commands_that_are_often_renamed_are_not_needed(caplog):
    renamed = [
        word for name in ("INFO", "CLIENT", "CONFIG", "SCRIPT", "SELECT") for word in ("--rename-command", name, "")
    ]
    with EmbeddedServer(program("valkey"), renamed) as server, StatusStore.from_url(server.url) as store:
        works(store)
        room = store.open(7)
        with redis.Redis(unix_socket_path=str(server.socket)) as client:
            client.flushall()
        assert room.update(4).status is DONE
        with store.mirror() as mirror, store.lease("me"):
            assert mirror.get(7) is DONE
    assert [record.name for record in caplog.records] == ["redis_kvpoll.recovery"], "the loss, and nothing else"
