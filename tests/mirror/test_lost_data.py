"""The server loses its data: rooms that this store holds, and is about to restore, are never shown as gone.

Blocking and asyncio.
"""

from __future__ import annotations

import contextlib
import time

import pytest

from chaos.proxy import Proxy
from redis_kvpoll import KVPoll, RoomNotFoundError, StatusStore, WaitTimeoutError
from tests.support import pace, real
from tests.support.internals import replica_of
from tests.support.mirrors import current, sleeping

BOOT, MOVE, DONE = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success


@pytest.fixture
def world():
    with real.World("sync") as world:
        yield world


@pytest.fixture
def server(world):
    return world.serve()


def lose_data(world, server, how):
    """Lose all data, by FLUSHALL or by a restart; the server from then on."""
    if how == "restart":
        return world.restart(server)
    with server.client() as client:
        client.flushall()
    return server


@pytest.mark.parametrize("how", ["flush", "restart"])
@pytest.mark.parametrize("ranks", [{}, {"rank": 0, "world_size": 2}], ids=["plain", "rank"])
def test_on_change_does_not_say_that_held_rooms_are_gone(side, world, server, how, ranks):
    """The store is idle: nobody but the mirror notices the loss."""
    store = side.open(server.tcp, deadline=60.0, **ranks)
    for room in range(3):
        store.open(room).update(MOVE)
    store.update_status(7, BOOT)  # not held: it was made by a plain call
    with store.mirror() as mirror:
        real.until(lambda: mirror.poll([0, 1, 2, 7]) == [MOVE] * 3 + [BOOT], "known")
        changes = []
        mirror.on_change(lambda room, status: changes.append((room, status)))
        shard = replica_of(mirror).shards["default"]
        before = shard.resync_count
        lose_data(world, server, how)
        real.until(lambda: shard.resync_count > before and mirror.synced, "it has begun anew")
        real.until(lambda: changes, "it is told")
        assert changes == [(7, None)]
        assert mirror.poll(range(3)) == [MOVE] * 3
        current(mirror, store)


@pytest.mark.parametrize("how", ["flush", "restart"])
def test_waits_for_held_room_survive_loss(side, world, server, threads, how):
    store = side.open(server.tcp, deadline=60.0)
    room = store.open(1)
    room.update(MOVE)
    with store.mirror() as mirror:
        found = [threads.submit(waits.wait, 1, timeout=pace.seconds(60)) for waits in (store, mirror)]
        real.until(lambda: sleeping(store) and sleeping(mirror), "they sleep")
        shard = replica_of(mirror).shards["default"]
        before = shard.resync_count
        lose_data(world, server, how)
        real.until(lambda: shard.resync_count > before and mirror.synced, "it has begun anew")
        assert not any(one.done() for one in found)
        room.update(DONE)
        assert [one.result(pace.seconds(60)) for one in found] == [DONE, DONE]


def test_wait_begun_after_loss_finds_held_room(side, server):
    store = side.open(server.tcp, deadline=60.0)
    store.open(1).update(MOVE)
    with server.client() as client:
        client.flushall()
        assert store.wait(1, MOVE, timeout=pace.seconds(60)) is MOVE
        with store.mirror() as mirror:
            client.flushall()
            assert mirror.wait(1, MOVE, timeout=pace.seconds(60)) is MOVE


def test_held_room_that_is_cleared_elsewhere_is_gone(side, server):
    """A room that the feed does not report, since it is gone by hand: the store asks, and believes the server."""
    store = side.open(server.tcp, deadline=60.0)
    store.open(1).update(MOVE)
    with store.mirror() as mirror, server.client() as client:
        real.until(lambda: mirror.get(1) is MOVE, "known")
        with client.pipeline(transaction=True) as step:
            step.delete("kvpoll:{default}:room:1", "kvpoll:{default}:feed")
            step.execute()
        real.until(lambda: mirror.get(1) is None, "it is gone")
        real.until(lambda: mirror.synced, "synced")
        with pytest.raises(RoomNotFoundError):
            mirror.wait(1, timeout=pace.seconds(60))


def test_wait_for_attached_room_awaits_its_creator(side, server, threads):
    """The process that opened the room restores it with its next heartbeat."""
    store = side.open(server.tcp, deadline=60.0)
    with StatusStore.from_url(server.tcp) as creator:
        room = creator.open(1, "request")
        room.update(MOVE)
        handle = store.attach(1)
        found = threads.submit(store.wait, 1, timeout=pace.seconds(60))
        real.until(lambda: sleeping(store), "it sleeps")
        with server.client() as client:
            client.flushall()
        shard = replica_of(store).shards["default"]
        before = shard.resync_count
        real.until(lambda: shard.resync_count > before or found.done(), "it has begun anew")
        time.sleep(0.5)
        assert not found.done()
        room.update(DONE)
        assert found.result(pace.seconds(60)) is DONE
        assert handle.id == 1


@pytest.mark.parametrize("waits", ["store", "mirror"])
def test_second_outage_only_prolongs_a_wait(side, server, threads, waits):
    """All data was lost, and the wait looks for its room again and again, when the server goes away once more."""
    deadline = pace.seconds(0.5)
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(Proxy(server.port))
        store = side.open(f"redis://127.0.0.1:{proxy.port}", deadline=deadline)
        room = stack.enter_context(StatusStore.from_url(server.tcp)).open(1, "request")
        store.attach(1)
        waiting = store if waits == "store" else stack.enter_context(store.mirror())
        found = threads.submit(waiting.wait, 1, timeout=pace.seconds(60))
        real.until(lambda: sleeping(waiting), "it sleeps")
        with server.client() as client:
            client.flushall()
        asked = proxy.calls("attach")
        real.until(lambda: proxy.calls("attach") > asked + 5 or found.done(), "it looks for the room")
        proxy.refusing = True
        proxy.cut()
        time.sleep(3 * deadline)
        assert not found.done()
        room.update(DONE)
        proxy.refusing = False
        assert found.result(pace.seconds(60)) is DONE


@pytest.mark.parametrize("waits", ["store", "mirror"])
@pytest.mark.parametrize("timeout", [0, 0.001])
def test_wait_for_room_without_creator_ends_in_time(side, server, waits, timeout):
    """The process that opened the room does not restore it; the wait would go on for 10 s."""
    store = side.open(server.tcp, deadline=60.0)
    with StatusStore.from_url(server.tcp) as creator, server.client() as client:
        creator.open(1, "request").update(MOVE)
        store.attach(1)
        client.flushall()
        if waits == "store":
            with pytest.raises(WaitTimeoutError, match="never seen"):
                store.wait(1, timeout=timeout)
        else:
            with store.mirror() as mirror, pytest.raises(WaitTimeoutError, match="never seen"):
                mirror.wait(1, timeout=timeout)
