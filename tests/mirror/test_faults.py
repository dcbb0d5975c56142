"""Mirrors and waits while connections break and feeds and servers are lost, blocking and asyncio."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import redis

from redis_kvpoll import (
    AsyncStatusStore,
    KVPoll,
    RoomNotFoundError,
    ServerRefusedError,
    StatusStore,
    StoreUnavailableError,
)
from tests.support import cluster as clusters
from tests.support import pace, real
from tests.support.backup import Backup
from tests.support.calls import calls_may_take
from tests.support.internals import replica_of
from tests.support.mirrors import current, following, never_stale, sleeping

BOOT, MOVE, DONE, FAIL = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success, KVPoll.Failed
FEED = "kvpoll:{default}:feed"


@pytest.fixture
def world():
    with real.World("sync") as world:
        yield world


@pytest.fixture
def server(world):
    return world.serve()


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture
def store(side, proxy):
    """A store behind the proxy; the peer is not."""
    return side.open(proxy.url)


class TestGaps:
    """The connection works, but feed entries are gone."""

    @pytest.fixture
    def following_mirror(self, store, peer):
        peer.update_many({1: BOOT, 2: BOOT})
        with store.mirror() as mirror:
            yield mirror

    def test_feed_trimmed_before_read_causes_resync(self, following_mirror, store, client, proxy):
        changes = []
        following_mirror.on_change(lambda room, status: changes.append((room, status)))
        with client.pipeline(transaction=True) as step:
            self.change(step, 1, DONE)
            step.delete("kvpoll:{default}:room:2")
            step.xtrim(FEED, maxlen=0, approximate=False)
            step.execute()
        real.until(lambda: following_mirror.get(1) is DONE, "resynced")
        current(following_mirror, store)
        assert sorted(changes) == [(1, DONE), (2, None)]

    def test_hole_before_newer_entry_causes_resync(self, following_mirror, store, client):
        """The position is in the feed as ever once the newer entry was read: only an older one tells."""
        with client.pipeline(transaction=True) as step:
            self.change(step, 1, DONE)
            step.delete("kvpoll:{default}:room:2")
            step.xtrim(FEED, maxlen=0, approximate=False)
            self.change(step, 3, BOOT)
            step.execute()
        real.until(lambda: following_mirror.get(3) is BOOT, "read")
        real.until(lambda: following_mirror.poll([1, 2, 3]) == [DONE, None, BOOT], "resynced")
        current(following_mirror, store)

    def test_lower_feed_ids_cause_resync(self, following_mirror, store, client, peer):
        with client.pipeline(transaction=True) as step:
            step.delete(FEED)
            self.change(step, 1, MOVE, "5-1")
            step.pexpire(FEED, 600_000)
            step.execute()
        real.until(lambda: following_mirror.get(1) is MOVE, "resynced")
        for number, status in enumerate((FAIL, DONE)):
            with client.pipeline(transaction=True) as step:
                self.change(step, 1, status, f"6-{number}")
                step.execute()
            real.until(lambda status=status: following_mirror.get(1) is status, "and followed")
        current(following_mirror, store)

    def test_deleted_feed_is_restarted_and_followed(self, following_mirror, store, client, peer):
        client.delete(FEED)
        real.until(lambda: client.exists(FEED), "it begins a feed")
        peer.update_status(1, MOVE)
        real.until(lambda: following_mirror.get(1) is MOVE, "and follows it")
        current(following_mirror, store)

    def test_waiters_see_changes_trimmed_from_feed(self, store, client, peer, threads):
        peer.update_many({1: BOOT, 2: BOOT})
        found = [threads.submit(store.wait, room) for room in (1, 2)]
        real.until(lambda: sleeping(store, 2), "they sleep")
        with client.pipeline(transaction=True) as step:
            self.change(step, 1, DONE)
            step.delete("kvpoll:{default}:room:2")
            step.xtrim(FEED, maxlen=0, approximate=False)
            step.execute()
        assert found[0].result(pace.seconds(120)) is DONE
        with pytest.raises(RoomNotFoundError):
            found[1].result(pace.seconds(120))

    @staticmethod
    def change(step, room, status, feed_id="*"):
        """Change a room as a script would, but with any id for its entry."""
        key = f"kvpoll:{{default}}:room:{room}"
        step.hset(key, mapping={"status": status.name, "opened_ms": 1, "updated_ms": 1})
        step.pexpire(key, 600_000)
        step.xadd(FEED, {room: status.name}, id=feed_id)


class TestLostConnections:
    def test_changes_during_outage_are_found(self, store, peer, proxy, caplog, monkeypatch):
        never_stale(monkeypatch)
        caplog.set_level(logging.INFO, "redis_kvpoll")
        peer.update_many(dict.fromkeys(range(4), BOOT))
        with store.mirror() as mirror:
            changes = []
            mirror.on_change(lambda room, status: changes.append((room, status)))
            proxy.refusals = 10**6
            proxy.cut()
            real.until(lambda: not mirror.synced, "it notices")
            peer.update_many({1: MOVE, 5: BOOT})
            peer.clear(2)
            assert mirror.poll([1, 2, 5]) == [BOOT, BOOT, None]  # the last known
            proxy.refusals = 0
            current(mirror, store)
            assert sorted(changes, key=str) == sorted([(1, MOVE), (5, BOOT), (2, None)], key=str)
            real.until(lambda: "is current again" in caplog.text, "logged")
        assert caplog.text.count("is not current until") == 1

    def test_lost_store_connection_leaves_mirror_synced(self, store, peer, proxy, monkeypatch):
        """The next connection leads to the same server, so the mirror's is as good as before."""
        never_stale(monkeypatch)
        with store.mirror() as mirror:
            shard = replica_of(mirror).shards["default"]
            before = shard.resync_count
            proxy.lose_next_reply("update")
            store.update_status(1, BOOT)
            assert mirror.get(1) is BOOT
            current(mirror, store)
            assert shard.resync_count == before

    def test_store_on_another_server_causes_resync(self, world, store, client, proxy):
        """The mirror's own connection still leads to the former one."""
        with store.mirror() as mirror:
            store.update_status(1, BOOT)
            other = world.serve()
            with other.client() as successor:
                Backup(client).restore(successor)
            proxy.target = other.socket
            shard = replica_of(mirror).shards["default"]
            before = shard.resync_count
            proxy.lose_next_reply("update")
            assert store.update_status(1, MOVE).status is MOVE
            real.until(lambda: shard.resync_count > before, "it resyncs")
            real.until(lambda: mirror.get(1) is MOVE, "from the other server")
            current(mirror, store)

    def test_swallowing_network_is_unsynced(self, side, proxy, peer):
        store = side.open(proxy.url, deadline=pace.seconds(1.5))
        peer.update_status(1, BOOT)
        with calls_may_take(store, 60.0), store.mirror() as mirror:
            proxy.stalled = True
            real.until(lambda: not mirror.synced, "it notices", seconds=3)
            peer.update_status(1, MOVE)
            proxy.stalled = False
            real.until(lambda: mirror.synced, "synced")
            assert mirror.get(1) is MOVE

    def test_waiters_sleep_through_outage(self, store, peer, proxy, threads):
        peer.update_many({1: BOOT, 2: BOOT})
        with store.mirror() as mirror:
            found = [threads.submit(one.wait, room) for one in (store, mirror) for room in (1, 2)]
            real.until(lambda: sleeping(store, 2) and sleeping(mirror, 2), "they sleep")
            proxy.refusals = 10**6
            proxy.cut()
            real.until(lambda: not mirror.synced, "it notices")
            peer.update_status(1, DONE)
            peer.clear(2)
            proxy.refusals = 0
            assert [found[0].result(pace.seconds(120)), found[2].result(pace.seconds(120))] == [DONE, DONE]
            for one in (found[1], found[3]):
                with pytest.raises(RoomNotFoundError):
                    one.result(pace.seconds(120))

    def test_closed_mirror_leaves_no_connection(self, side, server, client, peer):
        peer.update_status(1, BOOT)
        before = real.connections(client)
        store = side.open(server.tcp)
        with store.mirror() as mirror:
            assert store.wait(1, BOOT) is mirror.wait(1, BOOT) is BOOT
            assert real.connections(client) - before
        store.close()
        real.until(lambda: not real.connections(client) - before, "no connection is left")
        assert not following(side)


class TestServers:
    def test_stopped_server_is_unsynced(self, side, server, peer):
        store = side.open(server.tcp, deadline=pace.seconds(30))
        peer.update_status(1, BOOT)
        with store.mirror() as mirror:
            os.kill(server.pid, signal.SIGSTOP)
            try:
                real.until(lambda: not mirror.synced, "it notices", seconds=3)
                assert mirror.get(1) is BOOT
                assert mirror.lag > 0.9
            finally:
                os.kill(server.pid, signal.SIGCONT)
            current(mirror, store)

    def test_restart_without_data_makes_mirror_resync(self, side, world, server, threads):
        store = side.open(server.tcp)
        store.update_many(dict.fromkeys(range(5), BOOT))
        with store.mirror() as mirror:
            found = threads.submit(mirror.wait, 1)
            real.until(lambda: sleeping(mirror), "it sleeps")
            server = world.restart(server)
            with StatusStore(server.store_client()) as peer:
                peer.update_status(3, MOVE)
                real.until(lambda: mirror.get(3) is MOVE, "resynced")
                current(mirror, peer)
            assert mirror.poll(range(5)) == [None, None, None, MOVE, None]
            with pytest.raises(RoomNotFoundError):
                found.result(pace.seconds(120))

    def test_changed_settings_after_outage_are_retried_slowly(self, store, peer, client, proxy, monkeypatch, caplog):
        monkeypatch.setattr("redis_kvpoll.replica.health.REJECTED_RETRY", 0.02)
        settings = "kvpoll:{default}:settings"
        with store.mirror() as mirror:
            client.hset(settings, "policy", "strict")
            proxy.cut()
            real.until(lambda: caplog.text.count("retries slowly"), "logged")
            assert not mirror.synced
            client.hset(settings, "policy", "compat")
            real.until(lambda: mirror.synced, "once it is put right, it goes on")
        assert caplog.text.count("retries slowly") == 1

    def test_refused_mirror_raises_and_leaves_nothing(self, side, server, client):
        client.acl_setuser("default", commands=["-xread"], enabled=True, nopass=True)
        store = side.open(server.tcp)
        with pytest.raises(ServerRefusedError, match=r"^mirror: the server refused: .*NOPERM"):
            store.mirror().__enter__()
        assert not following(side)
        client.acl_setuser("default", commands=["+xread"], enabled=True, nopass=True)

    def test_entry_fails_when_large_replies_are_cut(self, side, server, client, peer):
        """The server answers, but never to the end: its limit for output closes each connection."""
        for first in range(0, 3000, 1000):
            peer.update_many(dict.fromkeys(range(first, first + 1000), BOOT))
        client.config_set("client-output-buffer-limit", "normal 20kb 0 0")
        store = side.open(server.tcp, deadline=pace.seconds(1))
        with pytest.raises(StoreUnavailableError, match=r"^mirror: the table could not be read to its end for .*limit"):
            store.mirror().__enter__()
        assert not following(side)
        client.config_set("client-output-buffer-limit", "normal 0 0 0")  # the check for keys without a TTL reads more

    def test_mirror_follows_sentinel_failover(self, side, world, tmp_path, threads):
        primary = world.serve("--repl-diskless-sync-delay", "0")
        replica = world.serve("--replicaof", "127.0.0.1", str(primary.port))
        with real.Sentinel(tmp_path, primary.port) as sentinel:
            with redis.Redis(unix_socket_path=str(sentinel.socket)) as client, replica.client() as other:
                real.until(lambda: client.execute_command("SENTINEL REPLICAS", "main"), "the replica is known")
                real.until(lambda: other.info("replication")["master_link_status"] == "up", "and in step")
            store = side.open(f"redis+sentinel://127.0.0.1:{sentinel.port}/main", deadline=180.0)  # see Sentinel
            store.update_many({1: BOOT, 2: BOOT})
            with store.mirror() as mirror, primary.client() as client:
                found = threads.submit(mirror.wait, 1)
                real.until(lambda: sleeping(mirror), "it sleeps")
                real.replicate(client)
                primary.stop()
                world.forget(primary)
                real.until(lambda: not mirror.synced, "it notices")
                store.update_status(1, DONE)
                assert found.result(pace.seconds(180)) is DONE
                current(mirror, store)


class TestCluster:
    @pytest.fixture
    def cluster(self, world):
        return clusters.shared_in(world)

    @pytest.fixture
    def store(self, side, cluster):
        return side.open(cluster.url, namespace="prod", shards=8, deadline=30.0)

    @pytest.fixture
    def peer(self, cluster):
        with StatusStore.from_url(cluster.url, namespace="prod", deadline=30.0) as peer:
            yield peer

    def test_mirror_follows_all_shards_of_cluster(self, side, store, peer, threads):
        store.update_many(dict.fromkeys(range(200), BOOT))
        with store.mirror() as mirror:
            assert len(following(side)) == (1 if side.is_async else 8)  # tasks are counted by their names
            peer.update_many(dict.fromkeys(range(0, 200, 2), MOVE))
            real.until(lambda: mirror.poll(range(200)) == [MOVE, BOOT] * 100, "all of them")
            found = [threads.submit(one.wait, room) for one in (store, mirror) for room in range(10)]
            peer.update_many(dict.fromkeys(range(200), DONE))
            assert {one.result(pace.seconds(120)) for one in found} == {DONE}
            current(mirror, peer, range(200))

    def test_callbacks_get_one_change_at_a_time(self, side, store, peer):
        """Each shard has a thread that finds changes: only one of them at a time tells."""
        calling, found, seen = threading.Lock(), [], []

        def listen(what):
            if calling.acquire(blocking=False):
                seen.append(what)
                time.sleep(0.002)
                calling.release()
            else:
                found.append(what)

        with store.mirror() as mirror:
            mirror.on_change(lambda room, status: listen((room, status)))
            peer.update_many(dict.fromkeys(range(100), BOOT))
            peer.update_many(dict.fromkeys(range(100), DONE))
            real.until(lambda: len(seen + found) == 200, "all are told")
            assert not found
            assert all(seen.index((room, BOOT)) < seen.index((room, DONE)) for room in range(100))
        seen.clear()
        with store.failures(lambda: range(100, 200)) as failures:
            failures.on_failure(lambda failure: listen(failure.room))
            peer.update_many(dict.fromkeys(range(100, 200), BOOT))
            peer.update_many(dict.fromkeys(range(100, 200), FAIL))
            real.until(lambda: len(seen + found) >= 100, "all are told")
            assert not found
        real.until(lambda: not following(side), "the followers have ended")

    def test_mirror_follows_moved_slot(self, store, peer, cluster, threads):
        store.update_many(dict.fromkeys(range(100), BOOT))
        with store.mirror() as mirror:
            found = threads.submit(store.wait, 0)
            real.until(lambda: replica_of(store) is not None, "it waits")
            cluster.start_moving("prod/3")
            cluster.finish_moving("prod/3")
            peer.update_many(dict.fromkeys(range(0, 100, 2), DONE))
            real.until(lambda: mirror.poll(range(100)) == [DONE, BOOT] * 50, "read on the new nodes")
            current(mirror, peer, range(100))
            assert found.result(pace.seconds(120)) is DONE
            store.update_status(1, MOVE)
            assert mirror.get(1) is MOVE


def test_ten_thousand_waits_share_one_connection(world):
    """In asyncio; every wait wakes, and only a few connections are open."""
    server = world.serve()
    count = 10_000

    async def run():
        async with AsyncStatusStore.from_url(server.tcp, deadline=60.0) as store:
            await store.update_many(dict.fromkeys(range(count), BOOT))
            waits = [asyncio.create_task(store.wait(room)) for room in range(count)]
            while not sleeping(store, count):  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
            with server.client() as client:
                connections = len(client.client_list())
            waits[7].cancel()
            await store.update_many({room: DONE if room % 2 else FAIL for room in range(count)})
            found = await asyncio.gather(*waits, return_exceptions=True)
            return connections, found

    connections, found = asyncio.run(asyncio.wait_for(run(), pace.patience(120)))
    assert isinstance(found.pop(7), asyncio.CancelledError)
    assert set(found) == {DONE, FAIL}
    assert connections <= 16 + 3


def test_process_ends_without_closing_mirror(world, tmp_path):
    """Daemon threads do not delay the exit."""
    server = world.serve()
    code = f"""
from redis_kvpoll import StatusStore
store = StatusStore.from_url({server.tcp!r})
store.update_status(1, 1)
mirror = store.mirror().__enter__()
print(mirror.get(1).name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=pace.seconds(30))
    assert (done.returncode, done.stdout, done.stderr) == (0, "Bootstrapping\n", "")
