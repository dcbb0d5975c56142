"""A write that the server did not execute says nothing about what it holds: the store stays settled.

Reads and mirrors go on, over the same connections, and nothing is verified. Blocking and asyncio.
"""

from __future__ import annotations

import pytest
import redis

from redis_kvpoll import KVPoll, Outcome, ServerRefusedError, StoreUnavailableError
from tests.support import real
from tests.support.mirrors import never_stale
from tests.support.wire import verifications

BOOT, MOVE = KVPoll.Bootstrapping, KVPoll.Transferring


@pytest.fixture
def server(tmp_path):
    """A server whose snapshots fail when one is asked for: its folder is gone."""
    folder = tmp_path / "gone"
    folder.mkdir()
    with real.World("sync") as world:
        server = world.serve("--dir", str(folder), "--lua-time-limit", "5")
        folder.rmdir()
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def fail_to_save(client):
    """Make the server refuse writes, since it cannot make a snapshot."""
    client.config_set("save", "3600 1")
    client.bgsave()
    real.until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the snapshot failed")


REFUSALS = {
    "NOREPLICAS": (
        StoreUnavailableError,
        lambda client: client.config_set("min-replicas-to-write", 1),
        lambda client: client.config_set("min-replicas-to-write", 0),
    ),
    "OOM": (
        ServerRefusedError,
        lambda client: client.config_set("maxmemory", 1),
        lambda client: client.config_set("maxmemory", 0),
    ),
    "MISCONF": (ServerRefusedError, fail_to_save, lambda client: client.config_set("save", "")),
}
"""By code: (the error for the caller, what makes the server refuse writes, what ends that)"""


@pytest.mark.parametrize("code", REFUSALS)
def test_refused_write_settles_nothing_anew(side, proxy, client, code, monkeypatch):
    never_stale(monkeypatch)
    error, refuse, allow = REFUSALS[code]
    store = side.open(proxy.url, deadline=60.0)
    handle = store.open(1)
    handle.update(BOOT), handle.status(), store.get(1)
    with store.mirror() as mirror:
        proxy.commands.clear()
        connections = proxy.connections
        refuse(client)
        with real.three_tries(), pytest.raises(error, match=code):
            store.open(2)
        assert handle.status() is store.get(1) is mirror.get(1) is BOOT
        assert store.poll([1, 2]) == mirror.poll([1, 2]) == [BOOT, None]
        assert mirror.synced
        allow(client)
        assert handle.update(MOVE).outcome is Outcome.ADVANCED
        real.until(lambda: mirror.get(1) is MOVE, "the mirror follows")
        assert (proxy.connections, verifications(proxy)) == (connections, [])


def test_busy_server_settles_nothing_anew(side, proxy, client, server):
    """It executes nothing at all, reads included, until the script that keeps it busy has ended."""
    store = side.open(proxy.url, deadline=60.0)
    handle = store.open(1)
    handle.update(BOOT), handle.status()
    proxy.commands.clear()
    with server.client(retry=None) as other:
        busy = other.connection_pool.get_connection()
        busy.send_command("EVAL", "while true do end", 0)
        real.until(lambda: real.is_busy(client), "it is busy")
        for call in (lambda: handle.update(MOVE), handle.status):
            with real.three_tries(), pytest.raises(StoreUnavailableError, match=r"BUSY|busy"):
                call()
        client.script_kill()
        with pytest.raises(redis.ResponseError):
            busy.read_response()
        other.connection_pool.release(busy)
    assert handle.status() is BOOT
    assert handle.update(MOVE).outcome is Outcome.ADVANCED
    assert verifications(proxy) == []
