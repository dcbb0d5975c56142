"""A mirror whose connection was silent for longer than it promises connects anew before it is synced again.

The service may lead to another primary by then, and the old one, once it wakes, knows of nothing. Blocking and asyncio.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from chaos.proxy import Proxy
from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.replica.replica import STALE_AFTER
from tests.support import pace, real
from tests.support.mirrors import sleeping

BOOT, MOVE, DONE = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success
PATIENT = "socket_timeout=100"
"""No read is lost for its time while the server stands still."""


@pytest.fixture
def store(failover, side):
    store = side.open(f"{failover.service.url}?{PATIENT}", deadline=100.0)
    store.update_many({1: BOOT, 2: BOOT})
    failover.wait_for_replica()
    return store


def change_on_new(failover):
    """Promote the replica, and let another process change a room there and clear another."""
    failover.promote()
    with StatusStore(failover.new.store_client()) as peer:
        peer.update_status(1, MOVE)
        peer.clear(2)


def test_synced_mirror_shows_new_primary(store, failover):
    with store.mirror() as mirror:
        failover.pause()
        real.until(lambda: not mirror.synced, "it notices")
        change_on_new(failover)
        failover.wake()
        real.until(lambda: mirror.synced, "synced")
        assert mirror.poll([1, 2]) == [MOVE, None]


def test_waits_end_by_new_primary(store, failover, threads):
    """The old primary writes on for a moment, which says nothing about the table."""
    waiting = threads.submit(store.wait, 1, timeout=pace.seconds(30))
    real.until(lambda: sleeping(store), "it sleeps")
    failover.pause()
    time.sleep(2 * STALE_AFTER)
    change_on_new(failover)
    failover.wake()
    with StatusStore(failover.old.store_client()) as lost:
        lost.abort(1, "a write that will be lost")
    with StatusStore(failover.new.store_client()) as peer:
        peer.update_status(1, DONE)
    assert waiting.result(pace.seconds(30)) is DONE


def test_paused_server_costs_a_new_connection(side):
    """Also where the same server answers again: the mirror cannot know that before it asks."""
    with real.World("sync") as world:
        server = world.serve()
        with Proxy(server.port) as proxy:
            store = side.open(f"{proxy.url}?{PATIENT}", deadline=100.0)
            store.update_status(1, BOOT)
            with store.mirror() as mirror:
                before = proxy.connections
                os.kill(server.pid, signal.SIGSTOP)
                try:
                    real.until(lambda: not mirror.synced, "it notices")
                finally:
                    os.kill(server.pid, signal.SIGCONT)
                real.until(lambda: mirror.synced, "synced")
                assert proxy.connections > before
            store.close()
