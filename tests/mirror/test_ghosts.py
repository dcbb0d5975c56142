"""Rooms that go without an entry in the feed: a slow sweep finds them. Blocking and asyncio."""

from __future__ import annotations

import contextlib

import pytest
import redis

from redis_kvpoll import KVPoll
from redis_kvpoll.replica import sweep
from tests.support import real
from tests.support.mirrors import current, sleeping
from tests.support.replicas import replica_of

BOOT, MOVE = KVPoll.Bootstrapping, KVPoll.Transferring


@pytest.fixture
def server():
    with real.World("sync") as world:
        yield world.serve()


def key(room):
    return f"kvpoll:{{default}}:room:{room}"


@pytest.mark.parametrize("how", ["DEL", "RENAME", "PEXPIRE"])
@pytest.mark.parametrize("shards", [1, 3])
def test_room_gone_by_hand_leaves_synced_mirror(side, server, how, shards):
    store = side.open(server.tcp, shards=shards)
    store.update_many(dict.fromkeys(range(9), BOOT))
    with store.mirror() as mirror, server.client() as client:
        changes = []
        mirror.on_change(lambda room, status: changes.append((room, status)))
        (name,) = client.keys("*:room:1")
        if how == "DEL":
            client.delete(name)
        elif how == "RENAME":
            client.rename(name, "elsewhere")
        else:
            client.pexpire(name, 1)
        real.until(lambda: mirror.get(1) is None, "it is found", seconds=30)
        real.until(lambda: changes, "it is told")
        assert changes == [(1, None)]
        current(mirror, store)
        client.delete("elsewhere")


def test_evicted_rooms_leave_synced_mirror(side, server):
    store = side.open(server.tcp, namespace="p")
    with server.client() as client:
        client.config_set("maxmemory-policy", "volatile-ttl")
        store.update_many(dict.fromkeys(range(200), BOOT))
        with store.mirror() as mirror:
            client.config_set("maxmemory", client.info("memory")["used_memory"] + 20_000)
            with contextlib.suppress(redis.RedisError):
                for number in range(3000):
                    client.set(f"filler:{number}", "x" * 500, ex=10**6)
                    if client.info("stats")["evicted_keys"] > 20:
                        break
            client.config_set("maxmemory", 0)
            gone = [room for room, status in enumerate(store.poll(range(200))) if status is None]
            assert gone
            real.until(lambda: mirror.poll(gone) == [None] * len(gone), "they are found", seconds=30)
            current(mirror, store, range(200))
        client.flushall()


def test_wait_for_evicted_room_ends(side, server, threads):
    store = side.open(server.tcp)
    store.update_status(1, BOOT)
    found = threads.submit(store.wait, 1)
    real.until(lambda: sleeping(store), "it sleeps")
    with server.client() as client:
        client.delete(key(1))
    with pytest.raises(KeyError):
        found.result(30)


class TestSweep:
    """Its pace, without a server: it bounds what the server pays, and how long a ghost stays."""

    @pytest.fixture
    def replica(self):
        return replica_of()

    def looked_at(self, replica, rooms, seconds, every=0.01):
        """The rooms of each part, when one is asked for so often."""
        replica.start_resync("ns", b"1-0", 0)
        replica.snapshot("ns", b"1-0", range(rooms), [b"Success", 900_000] * rooms, 0)
        sweeping = sweep.RoomSweep(replica.shards)
        return [sweeping.part(1000 + number * every)[0] for number in range(int(seconds / every))]

    def test_many_rooms_are_swept_at_fixed_rate(self, replica):
        rooms = 10_000
        parts = self.looked_at(replica, rooms, seconds=30)
        for start in range(0, 900, 100):
            most = int(100 * (sweep.SHORTEST_PASS + rooms / sweep.ROOMS_PER_SECOND))
            assert len(set().union(*parts[start : start + most + 100])) == rooms
        for start in range(len(parts) - 100):
            assert sum(map(len, parts[start : start + 100])) <= sweep.ROOMS_PER_SECOND

    @pytest.mark.parametrize("every", [0.5, 2.0])
    def test_rare_reads_sweep_at_the_same_rate(self, replica, every):
        """A heartbeat, or a mirror's period."""
        parts = self.looked_at(replica, 10_000, seconds=sweep.SHORTEST_PASS + 10 + 2 * every, every=every)
        assert len(set().union(*parts)) == 10_000

    def test_few_rooms_are_swept_once_per_pass(self, replica):
        parts = self.looked_at(replica, 10, seconds=31)
        assert sum(map(len, parts)) == 10 * int(30 / sweep.SHORTEST_PASS)

    def test_command_counts_keys_of_rooms(self, replica):
        replica.start_resync("ns", b"1-0", 0)
        replica.snapshot("ns", b"1-0", [5, 6], [b"Success", 900_000] * 2, 0)
        sweeping = sweep.RoomSweep(replica.shards)
        assert sweeping.part(10) == ([], [])
        rooms, words = sweeping.part(10 + sweep.SHORTEST_PASS)
        assert rooms == [5, 6]
        assert words == ["EXISTS", "kvpoll:{ns}:room:5", "kvpoll:{ns}:room:6"]

    @pytest.mark.parametrize("ranked", [{}, {"rank": "0", "world_size": "2"}], ids=["plain", "rank"])
    def test_room_that_was_cleared_meanwhile_is_left_out(self, ranked):
        """Else each part with one of them would be read as a whole."""
        replica = replica_of(**ranked)
        replica.start_resync("ns", b"1-0", 0)
        words = [b"Success", 900_000, *([b"status:0 Success"] if ranked else [])]
        replica.snapshot("ns", b"1-0", range(1000), words * 1000, 0)
        sweeping = sweep.RoomSweep(replica.shards)
        now = 10 + sweep.SHORTEST_PASS
        for before in 10, now - 0.2:
            assert sweeping.part(before) == ([], [])
        first, _ = sweeping.part(now + 0.1)
        assert len(first) < 500
        cleared = [word for room in range(500, 1000) for word in (b"%d" % room, b"absent")]
        replica.read("ns", [(b"2-0", cleared)], True, 0)
        parts = [sweeping.part(now + number)[0] for number in (1, 2)]
        assert sorted(set().union(first, *parts)) == sorted({*first, *range(500)})
