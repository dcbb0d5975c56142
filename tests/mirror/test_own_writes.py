"""Own writes are in the mirror when they return, also while its connection is made anew. Blocking and asyncio."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll
from tests.support import pace, real
from tests.support.internals import replica_of
from tests.support.mirrors import current

BOOT, MOVE, DONE = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success


@pytest.fixture
def server():
    with real.World("sync") as world:
        yield world.serve()


@pytest.fixture
def store(side, proxy):
    return side.open(proxy.url, deadline=pace.seconds(30))


def resynced(mirror):
    """How often the copy has begun anew."""
    return replica_of(mirror).shards["default"].resync_count


def resync(server, mirror):
    """Let the mirror begin anew: the feed is gone, and the connection stays."""
    before = resynced(mirror)
    with server.client() as client:
        client.delete("kvpoll:{default}:feed")
    real.until(lambda: resynced(mirror) > before and mirror.synced, "it has begun anew")


@pytest.mark.parametrize("name", ["open", "update_status"])
def test_write_under_way_during_resync_is_shown(store, proxy, server, threads, name):
    """The call is sent before the mirror begins anew, and is executed after."""
    store.open(5)  # now the server has the scripts
    store.update_status(5, MOVE)
    with store.mirror() as mirror:
        changes = []
        mirror.on_change(lambda room, status: changes.append((room, status)))
        seen = {}
        proxy.hold("open" if name == "open" else "update")
        replica = replica_of(mirror)
        observe = replica.observe_write

        def observing(*args):
            observe(*args)
            seen.update(status=replica.statuses.get(1), synced=replica.shards["default"].synced)

        replica.observe_write = observing
        writing = threads.submit(store.open, 1) if name == "open" else threads.submit(store.update_status, 1, BOOT)
        real.until(lambda: proxy.calls("open" if name == "open" else "update") > 1, "it is under way")
        resync(server, mirror)
        proxy.release()
        writing.result(pace.seconds(30))
        assert seen["status"] is BOOT
        assert not seen["synced"], "it is read first"
        assert mirror.get(1) is BOOT
        assert mirror.wait(1, BOOT, timeout=pace.seconds(30)) is BOOT
        current(mirror, store)
        real.until(lambda: changes, "it is told")
        assert changes == [(1, BOOT)]


@pytest.mark.parametrize("is_another_closed", [False, True])
def test_write_sent_before_mirror_is_shown(store, proxy, threads, is_another_closed):
    """The mirror is entered while the call is under way, maybe in the place of another."""
    store.update_status(5, BOOT)
    former = store.mirror()
    if is_another_closed:
        former.__enter__()
    proxy.hold("update")
    writing = threads.submit(store.update_status, 1, MOVE)
    real.until(lambda: proxy.calls("update") > 1, "it is under way")
    former.close()
    with store.mirror() as mirror:
        replica, seen = replica_of(mirror), []
        observe = replica.observe_write
        replica.observe_write = lambda *args: (observe(*args), seen.append(replica.statuses.get(1)))
        proxy.release()
        writing.result(pace.seconds(30))
        assert seen[:1] == [MOVE]
        assert mirror.get(1) is MOVE
        current(mirror, store)


def test_joined_room_is_shown_when_open_returns(side, server, store):
    """Another process has opened it a moment ago, and the feed has not told it yet."""
    other = side.open(server.tcp)
    store.update_status(5, BOOT)
    with store.mirror() as mirror:
        replica = replica_of(mirror)
        read, replica.read = replica.read, lambda tag, entries, at_tail, now: None  # the feed is slow
        other.open(1, "request")
        store.open(1, "request")
        assert mirror.get(1) is BOOT
        replica.read = read
        current(mirror, store)


WRITES = {
    "update of a handle": (lambda store, handle: handle.update(MOVE), "write", MOVE),
    "clear of a handle": (lambda store, handle: handle.clear(), "clear", None),
    "plain update": (lambda store, handle: store.update_status(1, MOVE), "update", MOVE),
    "abort": (lambda store, handle: store.abort(1, "no memory"), "abort", KVPoll.Failed),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("ranks", [{}, {"rank": 0, "world_size": 1}], ids=["", "ranks"])
def test_write_that_is_repeated_is_shown(side, proxy, monkeypatch, name, ranks):
    """Its first reply was lost, and the second says that nothing is to change. The feed is not read meanwhile."""
    store = side.open(proxy.url, deadline=pace.seconds(30), **ranks)
    write, script, status = WRITES[name]
    handle = store.open(1)
    with store.mirror() as mirror:
        write(store, handle)  # now the server has the script
        store.clear(1)
        handle = store.open(1)
        replica = replica_of(mirror)
        with monkeypatch.context() as patch:
            patch.setattr(replica, "read", lambda *_: None)
            proxy.lose_next_reply("write" if ranks and script == "update" else script)
            write(store, handle)
            assert mirror.get(1) is status
        real.until(lambda: mirror.synced and mirror.get(1) is status, "it is followed again")
