"""Statistics through outages, gaps in the feed, losses of data and failovers, and on a cluster."""

from __future__ import annotations

import time

import pytest

from chaos.proxy import Proxy
from redis_kvpoll import KVPoll, StatusStore, StoreUnavailableError
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.settings import parse_namespace
from redis_kvpoll.statistics import follow
from redis_kvpoll.sync import namespaces
from redis_kvpoll.sync.namespaces import list_namespaces
from tests.support import cluster as clusters
from tests.support import pace, real
from tests.support.statistics import settled

BOOT, MOVE, DONE = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success


@pytest.mark.parametrize("how", ["flush", "restart"])
def test_loss_of_data_is_read_afresh(side, how):
    with real.World("sync") as world:
        server = world.serve()
        store = side.open(server.tcp)
        store.update_many(dict.fromkeys(range(10), BOOT))
        with store.statistics() as statistics:
            settled(statistics, {BOOT: 10})
            store.update_status(1, DONE)
            settled(statistics, {BOOT: 9, DONE: 1})
            if how == "restart":
                server = world.restart(server)
            else:
                with server.client() as client:
                    client.flushall()
            settled(statistics, {})
            store.update_status(5, BOOT)
            snapshot = settled(statistics, {BOOT: 1})
            assert snapshot.transitions["Bootstrapping", "Success"] == 1
            assert snapshot.gaps >= 1


def test_gap_in_the_feed_is_counted_and_read_afresh(side, server, client):
    store = side.over(server)
    store.update_status(1, BOOT)
    with store.statistics() as statistics:
        settled(statistics, {BOOT: 1})
        pipeline = client.pipeline(transaction=True)  # so that the follower cannot read in between
        pipeline.hset("kvpoll:{default}:room:1", "status", "Transferring")
        pipeline.delete("kvpoll:{default}:feed")
        pipeline.execute()
        snapshot = settled(statistics, {MOVE: 1})
        assert (snapshot.gaps, snapshot.resyncs) == (1, 1)


def test_failover_goes_on_where_it_was(side, failover):
    store = side.open(f"redis://127.0.0.1:{failover.service.port}")
    store.update_many(dict.fromkeys(range(10), BOOT))
    with store.statistics() as statistics:
        settled(statistics, {BOOT: 10})
        store.update_many(dict.fromkeys(range(5), DONE))
        settled(statistics, {BOOT: 5, DONE: 5})
        failover.wait_for_replica()
        failover.pause()
        failover.promote()
        failover.service.cut()
        store.update_status(7, MOVE)
        snapshot = settled(statistics, {BOOT: 4, MOVE: 1, DONE: 5})
        assert snapshot.gaps == 0


def test_server_away_is_said_and_its_return_read(side, caplog):
    with real.World("sync") as world:
        server = world.serve()
        store = side.open(server.tcp, deadline=60.0)
        store.update_status(1, BOOT)
        with real.three_tries(), store.statistics() as statistics:
            settled(statistics, {BOOT: 1})
            server.stop()
            world.forget(server)
            real.until(lambda: statistics.snapshot().error is not None, "said")
            snapshot = statistics.snapshot()
            assert not snapshot.synced
            assert snapshot.counts[BOOT] == 1
    assert "the follower of statistics of namespace 'default' is not current" in caplog.text


def test_error_ends_with_the_answer_and_not_with_the_walk(side, monkeypatch):
    """A walk may take minutes: the server answers meanwhile."""
    monkeypatch.setattr(follow, "LONGEST_PAUSE", 0.1)  # after each room, with this share
    with real.World("sync") as world, Proxy(world.serve().port, inspect=False) as proxy:
        store = side.open(f"redis://127.0.0.1:{proxy.port}", deadline=pace.seconds(5))
        store.update_many(dict.fromkeys(range(2000), BOOT))
        with store.statistics(share=1e-9) as statistics:
            real.until(lambda: statistics.snapshot().walked, "the walk")
            proxy.refusing = True
            proxy.cut()
            real.until(lambda: statistics.snapshot().error is not None, "the error")
            proxy.refusing = False
            real.until(lambda: statistics.snapshot().error is None, "the answer")
            assert not statistics.snapshot().synced


def test_server_that_never_answers_ends_the_wait(side):
    store = side.open(f"redis://127.0.0.1:{real.free_port()}", deadline=pace.seconds(0.3))
    with store.statistics() as statistics, pytest.raises(StoreUnavailableError, match="statistics"):
        statistics.wait_synced(pace.seconds(20))


def read_again(statistics):
    """Wait until everything was read after this moment."""
    began = time.monotonic()
    real.until(lambda: statistics.snapshot().lag_seconds < time.monotonic() - began, "read")


class TestCluster:
    @pytest.fixture
    def world(self):
        with real.World("sync") as world:
            yield world

    @pytest.fixture
    def cluster(self, world):
        yield (cluster := clusters.shared_in(world))
        cluster.finish_all_moves()

    @pytest.fixture
    def store(self, side, cluster):
        store = side.open(cluster.url, namespace="prod", shards=8, deadline=30.0)
        store.counts()
        return store

    def test_shards_of_all_nodes_are_counted(self, store):
        store.update_many(dict.fromkeys(range(100), BOOT))
        with store.statistics() as statistics:
            settled(statistics, {BOOT: 100})
            store.update_many(dict.fromkeys(range(50), DONE))
            assert len(settled(statistics, {BOOT: 50, DONE: 50}).feeds) == 8

    def test_moved_slot_is_followed(self, store, cluster):
        rooms = [room for room in range(100) if keys.tag("prod", 8, room) == "prod/3"]
        store.update_many(dict.fromkeys(range(100), BOOT))
        with store.statistics() as statistics:
            settled(statistics, {BOOT: 100})
            cluster.start_moving("prod/3")
            cluster.finish_moving("prod/3")
            store.update_many(dict.fromkeys(rooms, DONE))
            settled(statistics, {BOOT: 100 - len(rooms), DONE: len(rooms)})

    def test_slot_that_moves_leaves_statistics_synced(self, store, cluster):
        """Its source refers to the target for every key that is absent (its leases), or has moved (its feed)."""
        by_tag = {keys.tag("prod", 8, room): room for room in range(100)}
        here, other = by_tag.pop("prod/3"), by_tag.popitem()[1]
        store.update_many(dict.fromkeys(range(100), BOOT))
        with store.statistics() as statistics:
            settled(statistics, {BOOT: 100})
            cluster.start_moving("prod/3")
            read_again(statistics)
            cluster.move_key("kvpoll:{prod/3}:feed")
            store.update_status(other, DONE)
            read_again(statistics)
            settled(statistics, {BOOT: 99, DONE: 1})
            cluster.finish_moving("prod/3")
            store.update_status(here, DONE)
            assert settled(statistics, {BOOT: 98, DONE: 2}).gaps == 0

    def test_namespaces_of_all_nodes_are_listed(self, store, cluster):
        for name in ("a", "b", "c", "d"):
            with StatusStore.from_url(cluster.url, namespace=name) as other:
                other.counts()
        assert [each.namespace for each in list_namespaces(cluster.url, 30.0)] == ["a", "b", "c", "d", "prod"]

    def test_namespace_whose_slot_moves_is_listed(self, cluster):
        with StatusStore.from_url(cluster.url, namespace="moving") as other:
            other.counts()
        cluster.start_moving("moving")
        try:
            cluster.move_key("kvpoll:{moving}:settings")
            found = {each.namespace: each.policy for each in list_namespaces(cluster.url, 30.0)}
        finally:
            cluster.finish_moving("moving")
        assert found["moving"] == "compat"

    def test_namespace_whose_slot_has_moved_is_listed(self, cluster, monkeypatch):
        """It moves after the slot map was read, once the first namespace has been."""
        for name in ("early", "moving"):
            with StatusStore.from_url(cluster.url, namespace=name) as other:
                other.counts()

        def parse_and_move(name, reply):
            if name == "early":
                cluster.start_moving("moving")
                cluster.finish_moving("moving")
            return parse_namespace(name, reply)

        monkeypatch.setattr(namespaces, "parse_namespace", parse_and_move)
        found = {each.namespace: each.policy for each in list_namespaces(cluster.url, 30.0)}
        assert found["moving"] == "compat"
