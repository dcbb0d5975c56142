"""The tail of the feed: the last changes, then the new ones, and a FeedGap where some are missing."""

from __future__ import annotations

import asyncio
import re
import threading

import pytest

from chaos.proxy import Proxy
from redis_kvpoll import AsyncStatusStore, FeedGap, KVPoll, StatusStore, StoreClosedError, StoreUnavailableError
from redis_kvpoll.engine.effects import Sleep
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.reads import read_feed
from redis_kvpoll.engine.session import Session
from redis_kvpoll.protocol.feed_reader import Tail
from redis_kvpoll.protocol.settings import ExpectedSettings
from tests.support import pace, real
from tests.support.feeds import a_round
from tests.support.internals import inner

FEED = "kvpoll:{default}:feed"


def short(news):
    return [found if isinstance(found, FeedGap) else (found.room, found.status) for found in news]


class TestTailRounds:
    """Single rounds of ``tail``."""

    def test_tail_gives_last_changes_then_new_ones(self, store):
        store.update_many(dict.fromkeys(range(40), KVPoll.Bootstrapping))
        tail = Tail(20)
        assert short(a_round(store, tail)) == [(room, KVPoll.Bootstrapping) for room in range(20, 40)]
        assert tail.pause == 0
        store.abort(5, "why")
        store.clear(6)
        assert short(a_round(store, tail)) == [(5, KVPoll.Failed), (6, None)]
        assert (a_round(store, tail), tail.pause) == ([], Tail.IDLE)
        store.update_status(7, 2)
        assert short(a_round(store, tail)) == [(7, KVPoll.WaitingForInput)]

    def test_tail_of_0_gives_new_changes_only(self, store):
        store.update_status(1, 1)
        tail = Tail(0)
        assert a_round(store, tail) == []
        store.update_status(1, 3)
        assert short(a_round(store, tail)) == [(1, KVPoll.Transferring)]

    def test_tail_waits_for_missing_feed(self, store):
        tail = Tail(5)
        assert a_round(store, tail) == a_round(store, tail) == []
        store.update_status(1, 1)
        assert short(a_round(store, tail)) == [(1, KVPoll.Bootstrapping)]

    def test_tail_reads_many_pages(self, store, monkeypatch):
        monkeypatch.setattr("redis_kvpoll.protocol.feed_reader.PAGE", 10)
        rooms = range(16 * 25)
        store.update_many(dict.fromkeys(rooms, 1))
        tail = Tail(10**9)
        assert [change.room for change in a_round(store, tail)] == list(rooms)
        store.update_many(dict.fromkeys(rooms, 2))
        found = [change.room for _ in range(3) for change in a_round(store, tail)]
        assert found == list(rooms)

    def test_tail_merges_shards(self, make_store):
        store = make_store(shards=4)
        for room in range(50):
            store.update_status(room, 1)
        times = {change.room: change.at for change in a_round(store, Tail(100))}
        assert times.keys() == set(range(50))
        tail = Tail(30)
        found = a_round(store, tail)
        assert [change.at for change in found] == sorted(times.values())[20:]
        store.update_many(dict.fromkeys(range(50), 3))
        assert {change.room for change in a_round(store, tail)} == set(range(50))

    def test_changes_trimmed_before_reading_are_a_gap(self, store, client):
        store.update_status(1, 1)
        tail = Tail(1)
        (seen,) = a_round(store, tail)
        for room in (2, 3, 4):
            store.update_status(room, 1)
        client.xtrim(FEED, maxlen=2, approximate=False)
        gap, *others = a_round(store, tail)
        assert gap == FeedGap(after=seen.id, before=others[0].id)
        assert short(others) == [(3, KVPoll.Bootstrapping), (4, KVPoll.Bootstrapping)]
        store.update_status(5, 1)
        assert short(a_round(store, tail)) == [(5, KVPoll.Bootstrapping)]

    def test_changes_trimmed_after_reading_are_no_gap(self, store, client):
        store.update_many({1: 1})
        store.update_status(2, 1)
        tail = Tail(2)
        a_round(store, tail)
        client.xtrim(FEED, maxlen=1, approximate=False)
        assert a_round(store, tail) == []

    def test_lost_feed_is_one_gap(self, store, client):
        store.update_status(1, 1)
        tail = Tail(1)
        (seen,) = a_round(store, tail)
        client.delete(FEED)
        assert a_round(store, tail) == [FeedGap(seen.id, None)]
        assert a_round(store, tail) == a_round(store, tail) == []
        store.update_status(2, 1)
        assert short(a_round(store, tail)) == [(2, KVPoll.Bootstrapping)]

    def test_feed_restarted_between_reads_is_followed(self, store, client):
        store.update_status(1, 1)
        tail = Tail(1)
        (seen,) = a_round(store, tail)
        client.delete(FEED)
        assert a_round(store, tail) == [FeedGap(seen.id, None)]
        store.update_status(2, 1)  # between the two reads
        assert a_round(store, tail) == []
        assert short(a_round(store, tail)) == [(2, KVPoll.Bootstrapping)]

    def test_older_ids_after_failover_are_followed(self, store, client):
        """After a failover to a server whose clock is behind, its entries must be read before it catches up."""
        store.update_status(1, 1)
        tail = Tail(1)
        (seen,) = a_round(store, tail)
        client.delete(FEED)
        client.xadd(FEED, {"7": "Transferring"}, id="5-1")
        client.expire(FEED, 600)
        assert a_round(store, tail) == [FeedGap(seen.id, None)]
        assert a_round(store, tail) == []
        client.xadd(FEED, {"7": "Success"}, id="6-1")
        assert short(a_round(store, tail)) == [(7, KVPoll.Success)]

    def test_feed_restarted_with_older_ids_is_followed(self, store, client):
        store.update_status(1, 1)
        tail = Tail(1)
        (seen,) = a_round(store, tail)
        client.delete(FEED)
        assert a_round(store, tail) == [FeedGap(seen.id, None)]
        assert a_round(store, tail) == []
        client.xadd(FEED, {"7": "Success"}, id="5-1")
        client.expire(FEED, 600)
        assert short(a_round(store, tail)) == [(7, KVPoll.Success)]

    def test_entries_without_changes_are_skipped(self, store, client):
        store.update_status(1, 1)
        tail = Tail(1)
        a_round(store, tail)
        client.xadd(FEED, {"by": "hand"})
        assert a_round(store, tail) == []
        store.update_status(1, 2)
        assert short(a_round(store, tail)) == [(1, KVPoll.WaitingForInput)]


def test_tail_sleeps_before_next_read():
    executor = Executor(Session(ExpectedSettings.checked("prod", None, None, None, None), 9.0, 9.0, 5.0))
    tail = Tail(0)
    assert not isinstance(next(read_feed(executor, "tail", tail)), Sleep)
    tail.pause = 0.05
    assert next(read_feed(executor, "tail", tail)) == Sleep(0.05)


class Follower:
    """The tail of a blocking or asyncio store, one item at a time."""

    def __init__(self, world, store, last=1):
        self._world = world
        self._tail = inner(store).tail(last)

    def next(self):
        async def following():
            async with asyncio.timeout(60):
                return await anext(self._tail)

        found = self._world.runner.run(following()) if self._world.is_async else next(self._tail)
        return short([found])[0]


def write_once_it_waits(server):
    """Change a room once its feed was read without news."""
    with StatusStore.from_url(server.url) as store, server.client() as client:

        def reads():
            return client.info("commandstats").get("cmdstat_xrange", {"calls": 0})["calls"]

        before = reads()
        real.until(lambda: reads() > before + 1, "the tail has read the feed")
        store.update_status(1, 3)


class TestTail:
    def test_changes_by_others_arrive(self, world):
        server = world.shared()
        store = world.open(server.tcp)
        store.update_status(1, 1)
        follower = Follower(world, store)
        assert follower.next() == (1, KVPoll.Bootstrapping)
        change = threading.Thread(target=write_once_it_waits, args=(server,))
        change.start()
        assert follower.next() == (1, KVPoll.Transferring)
        change.join(60)

    def test_lost_connection_is_invisible(self, world):
        server = world.shared()
        store = world.open(server.tcp, deadline=60.0)
        store.update_status(1, 1)
        follower = Follower(world, store)
        follower.next()
        with server.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
            client.xadd(FEED, {"1": "Success"})
            assert follower.next() == (1, KVPoll.Success)

    def test_restart_without_data_is_a_gap(self, world):
        server = world.serve()
        store = world.open(server.tcp, deadline=60.0)
        store.update_status(1, 1)
        follower = Follower(world, store)
        follower.next()
        server = world.restart(server)
        assert isinstance(follower.next(), FeedGap)
        with StatusStore.from_url(server.url) as other:
            other.update_status(2, 1)
        assert follower.next() == (2, KVPoll.Bootstrapping)

    def test_unreachable_server_raises(self, world):
        server = world.serve()
        store = world.open(server.tcp, deadline=60.0)
        store.update_status(1, 1)
        follower = Follower(world, store)
        follower.next()
        server.stop()
        world.forget(server)
        message = re.escape("tail of namespace 'default': no answer within 60 s")
        for _ in range(2):
            with real.three_tries(), pytest.raises(StoreUnavailableError, match=f"^{message}"):
                follower.next()

    def test_tail_goes_on_after_an_error(self, world):
        """Where it was: no change is missing, and none comes twice."""
        server = world.serve()
        with Proxy(server.socket) as proxy:
            store = world.open(proxy.url, deadline=60.0)
            store.update_many({1: 1, 2: 1})
            follower = Follower(world, store, last=2)
            assert follower.next() == (1, KVPoll.Bootstrapping)
            proxy.refusing = True
            proxy.cut()
            assert follower.next() == (2, KVPoll.Bootstrapping)
            with real.three_tries(), pytest.raises(StoreUnavailableError):
                follower.next()
            with StatusStore.from_url(server.url) as other:
                other.update_status(3, 1)
            proxy.refusing = False
            assert follower.next() == (3, KVPoll.Bootstrapping)

    def test_closed_store_raises(self, world):
        store = world.open(world.shared().tcp)
        store.update_status(1, 1)
        follower = Follower(world, store)
        follower.next()
        store.close()
        with pytest.raises(StoreClosedError, match=r"^tail: "):
            follower.next()

    def test_waiting_task_can_be_cancelled(self):
        async def work():
            async with AsyncStatusStore.from_url(real.shared().url) as store:
                await store.update_status(1, 1)
                tail = store.tail(1)
                await anext(tail)
                waiting = asyncio.ensure_future(anext(tail))
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert await store.get(1) is KVPoll.Bootstrapping

        asyncio.run(asyncio.wait_for(work(), pace.patience(20)))
        assert real.emptied(real.shared()) == []
