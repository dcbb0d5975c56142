"""A loss of data is logged once by each store that restores rooms, and counted. Blocking and asyncio."""

from __future__ import annotations

import os
import signal

import pytest

from redis_kvpoll import KVPoll
from tests.support.failover import Failover
from tests.support.losses import loss_records, losses_of

BOOT, MOVE = KVPoll.Bootstrapping, KVPoll.Transferring
ROOMS = range(40)


@pytest.mark.parametrize("shards", [1, 4])
def test_lost_epoch_is_reported_once(world, caplog, shards):
    """However many shards have lost it, and however many calls come upon it."""
    server = world.serve()
    store = world.open(server.tcp, shards=shards)
    handles = [store.open(room) for room in ROOMS]
    assert losses_of(store) == (0, 0)
    with server.client() as client:
        client.flushall()
    assert [handle.status() for handle in handles] == [BOOT] * len(ROOMS)
    assert store.poll(ROOMS) == [BOOT] * len(ROOMS)
    assert loss_records(caplog) == [("epoch", len(ROOMS))]
    assert losses_of(store) == (1, len(ROOMS))


def test_each_loss_is_reported(world, caplog):
    server = world.serve()
    store = world.open(server.tcp)
    handles = [store.open(room) for room in range(3)]
    for _ in range(2):
        with server.client() as client:
            client.flushall()
        handles[0].update(MOVE)
    handles[0].clear()
    with server.client() as client:
        client.flushall()
    handles[1].status()
    assert loss_records(caplog) == [("epoch", 3), ("epoch", 3), ("epoch", 2)]
    assert losses_of(store) == (3, 8)


def test_lagging_replica_is_reported_as_another_server(side, caplog):
    """It has the epoch, but not the last writes. Only the rooms that it lacks are restored."""
    with Failover() as failover:
        store = side.open(failover.service.url)
        for room in range(3):
            store.open(room)
        failover.wait_for_replica()
        failover.promote()  # new connections lead there; the store's own still leads to the old primary
        for room in range(3, 5):
            store.open(room).update(MOVE)
        failover.service.cut()
        assert store.poll(range(5)) == [BOOT] * 3 + [MOVE] * 2
        assert loss_records(caplog) == [("server", 2)]
        assert losses_of(store) == (1, 2)


def test_restart_with_all_data_is_not_reported(world, caplog, tmp_path):
    options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
    server = world.serve(*options)
    store = world.open(server.tcp)
    handle = store.open(1)
    os.kill(server.pid, signal.SIGKILL)
    world.restart(server, *options)
    assert handle.status() is BOOT
    assert loss_records(caplog) == []
    assert losses_of(store) == (0, 0)


def test_loss_without_tracked_rooms_is_not_reported(world, caplog):
    """The table is gone, but this store has nothing to restore."""
    server = world.serve()
    store = world.open(server.tcp)
    store.update_status(1, BOOT)
    with server.client() as client:
        client.flushall()
    assert store.get(1) is None
    store.update_status(1, BOOT)
    assert loss_records(caplog) == []
    assert losses_of(store)[1] == 0
