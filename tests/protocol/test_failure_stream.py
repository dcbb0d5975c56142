"""The stream of failures: what each way of failing a room appends, with the ids of the feed, its bound and its TTL."""

from __future__ import annotations

import contextlib

import pytest

from redis_kvpoll import StatusStore
from redis_kvpoll.protocol import keys
from tests.support.feeds import entries

FEED, FAILED = keys.feed("default"), keys.failed("default")
DAY_MS = 24 * 3600 * 1000


def told(client, tag="default"):
    """[{name: value}] of the stream's rooms, in its order; an entry has several, each with the id of its entry."""
    found = []
    for feed_id, words in entries(client, key=keys.failed(tag)):
        pairs = [word.decode() for word in words]
        for name, value in zip(pairs[::2], pairs[1::2], strict=True):
            if name.isdigit():
                found.append({"id": feed_id.decode(), "room": int(name), "generation": value})
            else:
                found[-1][name] = value
    return found


def shown(client):
    return [(found["room"], found["by"], found["reason"], found["origin"]) for found in told(client)]


class TestAppended:
    def test_plain_update_is_told(self, store, client):
        store.update_many({1: 2, 2: 2})
        store.update_many({1: 0, 2: 3})
        assert shown(client) == [(1, "", "", "engine")]

    def test_abort_by_nobody_is_an_operators(self, store, client):
        store.update_status(1, 2)
        store.abort(1, "stop it")
        assert shown(client) == [(1, "", "stop it", "operator")]

    def test_abort_by_a_rank_is_told_as_abort(self, make_store, client):
        store = make_store(rank=1, world_size=2)
        store.update_status(1, 2)
        store.abort(1)
        assert shown(client) == [(1, "rank 1", "Aborted by AbortReq.", "abort")]

    def test_fenced_failure_has_generation_request_and_owner(self, peer, client):
        with peer.lease("prefill-0", ttl=60):
            room = peer.open(1, "rid")
            room.fail("no memory")
            (found,) = told(client)
            assert found.pop("id")
            assert found == {
                "room": 1,
                "generation": str(room.generation),
                "request": "rid",
                "owner": "prefill-0",
                "by": "prefill-0",
                "reason": "no memory",
                "origin": "engine",
            }

    def test_sglangs_abort_through_a_handle_is_told_as_abort(self, store, client):
        store.open(1, "rid").fail("Aborted by AbortReq.")
        assert [found["origin"] for found in told(client)] == ["abort"]

    @pytest.mark.parametrize(("how", "origin"), [("leave", "left"), ("take again", "lost")])
    def test_owners_end_is_told(self, peer, server, client, how, origin):
        with StatusStore(server.store_client()) as store, contextlib.ExitStack() as later:
            lease = store.lease("prefill-0", ttl=60).__enter__()
            store.open(1, "rid")
            if how == "leave":
                lease.close()
            else:
                later.enter_context(peer.lease("prefill-0", ttl=60))
            peer.reap()
            (found,) = told(client)
        assert (found["owner"], found["origin"], found["request"]) == ("prefill-0", origin, "rid")
        assert found["reason"].startswith("owner prefill-0 ")

    def test_room_fails_once_and_gets_one_reason(self, ranks, client):
        first, second = ranks(2)
        first.update_status(1, 2)
        second.update_status(1, 2)
        first.update_status(1, 0)
        second.update_status(1, 0)
        second.record_failure(1, "the reason")
        first.record_failure(1, "a symptom")
        first.abort(1, "again")
        assert shown(client) == [(1, "rank 0", "", "engine"), (1, "rank 0", "the reason", "engine")]

    def test_reason_of_a_live_room_comes_with_its_failure(self, store, client):
        store.update_status(1, 2)
        store.record_failure(1, "soon")
        assert shown(client) == []
        store.update_status(1, 0)
        assert shown(client) == [(1, "", "soon", "engine")]

    def test_changes_that_fail_nothing_are_not_told(self, store, client):
        store.update_many({1: 1, 2: 4, 3: 0})
        store.clear(1)
        store.touch([2])
        store.abort(9)
        with store.open(5, "rid") as room:
            room.update(4)
        assert not client.exists(FAILED)

    def test_room_that_leaves_failed_and_fails_again_is_told_twice(self, make_store, client):
        store = make_store(policy="compat")
        for status in (2, 0, 3, 0):
            store.update_status(1, status)
        assert len(told(client)) == 2


class TestIds:
    def test_ids_are_those_of_the_feed(self, store, client):
        rooms = range(100)
        store.update_many(dict.fromkeys(rooms, 2))
        store.update_many({room: 0 if room > 20 and room % 3 else 3 for room in rooms})
        of_room = {found["room"]: found["id"] for found in told(client)}
        assert sorted(of_room) == [room for room in rooms if room > 20 and room % 3]
        for feed_id, words in entries(client):
            for name, value in zip(words[::2], words[1::2], strict=True):
                if value == b"Failed":
                    assert of_room.pop(int(name)) == feed_id.decode()
        assert not of_room

    def test_stream_has_the_bound_and_the_ttl_of_the_feed(self, make_store, client, server):
        store = make_store(feed_length=10)
        for room in range(500):
            store.update_status(room, 1)
            store.update_status(room, 0)
        assert client.xlen(FAILED) <= 200  # trimmed by whole nodes of 100 entries
        assert told(client)[-1]["room"] == 499
        assert 0 < client.pttl(FAILED) <= DAY_MS
        assert client.pttl(FAILED) > DAY_MS - 3_600_000

    def test_no_feed_means_no_failures(self, make_store, client):
        store = make_store(feed_length=0)
        store.update_status(1, 1)
        store.abort(1)
        assert not client.exists(FAILED)

    @pytest.mark.parametrize("junk", ["wrong type", "last id", "feed begun anew"])
    def test_stream_without_room_is_begun_anew(self, store, client, junk):
        store.update_many({1: 1, 2: 1, 3: 1})
        store.abort(3)
        if junk == "wrong type":
            client.delete(FAILED)
            client.set(FAILED, "by hand")
        elif junk == "last id":
            client.execute_command("XADD", FAILED, f"{2**64 - 1}-{2**64 - 1}", "made", "by hand")
        else:
            client.delete(FAILED)
            client.execute_command("XADD", FAILED, "99999999999999-0", "3", "1")
        store.abort(1, "why")
        store.abort(2, "why")
        assert [found["room"] for found in told(client)] == [1, 2]
        assert entries(client)[-1][0].decode() == told(client)[-1]["id"]
