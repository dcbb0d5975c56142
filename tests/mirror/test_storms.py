"""Mirrors and waits under restarts of the server and under many writers at once, blocking and asyncio."""

from __future__ import annotations

import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from redis_kvpoll import (
    KVPoll,
    OutcomeUnknownError,
    RoomNotFoundError,
    StatusStore,
)
from tests.support import pace, real
from tests.support.fuzzing import LONG
from tests.support.internals import ahead_of, ids_of, replica_of
from tests.support.mirrors import current, sleeping

BOOT, MOVE, DONE, FAIL = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success, KVPoll.Failed
FEED = "kvpoll:{default}:feed"
DATA = ("--dbfilename", "table.rdb")


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


def restarts(side, world, folder, waiters, times):
    """Kill and restart a server, with its data, under a mirror and so many waits."""
    arguments = (*DATA, "--dir", str(folder))
    server = world.serve(*arguments)
    store = side.open(server.tcp, deadline=60.0)
    rooms = range(waiters)
    store.update_many(dict.fromkeys(rooms, BOOT))
    with ThreadPoolExecutor(waiters) as pool, store, store.mirror() as mirror:
        found = {room: pool.submit((store, mirror)[room % 2].wait, room, timeout=300) for room in rooms}
        real.until(lambda: sleeping(store, waiters // 2) and sleeping(mirror, waiters // 2), "all sleep", 120)
        for number in range(times):
            with StatusStore(server.store_client()) as peer, server.client() as client:
                peer.update_many({room: MOVE for room in rooms if room % times > number})
                client.save()
            os.kill(server.pid, signal.SIGKILL)
            server = world.restart(server, *arguments)
            with StatusStore(server.store_client(), deadline=60.0) as peer:
                end_rooms(peer, found, [room for room in rooms if room % times == number])
                real.until(lambda: mirror.synced, "synced")
                assert mirror.poll(rooms) == peer.poll(rooms)
                assert all(found[room].done() is (room % times <= number) for room in rooms)


def end_rooms(peer, found, rooms):
    """End rooms in three ways; their waits, and no others, must end."""
    peer.update_many(dict.fromkeys(rooms[::3], DONE))
    peer.update_many(dict.fromkeys(rooms[1::3], FAIL))
    peer.clear_many(rooms[2::3])
    assert {found[room].result(pace.seconds(60)) for room in rooms[::3]} == {DONE}
    assert {found[room].result(pace.seconds(60)) for room in rooms[1::3]} == {FAIL}
    assert {type(found[room].exception(pace.seconds(60))) for room in rooms[2::3]} == {RoomNotFoundError}


def test_restarts_lose_no_wake_up_and_no_thread(side, world, tmp_path):
    """No wrong status, no missed wake-up; Side fails if a thread is left."""
    waiters, times = (1_000, 20) if LONG else (120, 3)
    restarts(side, world, tmp_path, waiters, times)


class TestStorms:
    """Threads of the store and of a peer write the same few rooms while the mirror's feed or connection breaks."""

    ROOMS = range(6)

    @pytest.mark.parametrize("harm", ["none", "cut", "trim", "restart the feed"])
    def test_storm_ends_with_mirror_equal_to_table(self, store, peer, client, proxy, threads, harm):
        seen = {}
        with store.mirror() as mirror:
            mirror.on_change(seen.__setitem__)
            writing = [threads.submit(self.write, one, seed) for seed, one in enumerate((store, store, peer, peer))]
            for _ in range(12):
                self.do(harm, client, proxy)
                real.until(lambda: mirror.synced, "synced, for a while")
                assert all(status is None or isinstance(status, KVPoll) for status in mirror.poll(self.ROOMS))
            for one in writing:
                one.result(pace.seconds(30))
            peer.update_status(99, BOOT)
            real.until(lambda: mirror.get(99), "the feed is read to its end")
            current(mirror, peer)
            real.until(lambda: seen.get(99), "and reported")
            assert [seen.get(room) for room in self.ROOMS] == peer.poll(self.ROOMS)
            replica = replica_of(mirror)
            assert ids_of(replica.shards["default"]).keys() == replica.statuses.keys()
            assert not ahead_of(replica.shards["default"])

    @staticmethod
    def do(harm, client, proxy):
        if harm == "cut":
            proxy.cut()
        elif harm == "trim":
            client.xtrim(FEED, maxlen=0, approximate=False)
        elif harm == "restart the feed":
            client.delete(FEED)

    def write(self, store, seed):
        chance = random.Random(seed)
        for _ in range(150):
            some = chance.sample(self.ROOMS, chance.randint(1, 4))
            try:
                if chance.random() < 0.3:
                    store.clear_many(some)
                elif chance.random() < 0.2:
                    store.abort(some[0])
                else:
                    store.update_many({room: chance.choice(list(KVPoll)) for room in some})
            except OutcomeUnknownError:
                pass  # the connection broke during a clear

    def test_own_writes_are_seen_at_once_during_storm(self, side, server, peer, threads):
        store = side.open(server.tcp)
        with store.mirror() as mirror:
            noise = threads.submit(self.write, peer, 1)
            for room in range(1000, 1300):
                store.update_status(room, BOOT)
                assert mirror.get(room) is BOOT
                store.update_status(room, MOVE)
                assert mirror.get(room) is MOVE
                store.clear(room)
                assert mirror.get(room) is None
            noise.result(pace.seconds(30))
