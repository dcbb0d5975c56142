"""A server that is killed and comes back with everything it had: nothing was lost, so nothing is brought back.

The server writes each command to its append-only file before it replies. Blocking and asyncio.
"""

from __future__ import annotations

import os
import signal

import pytest

from redis_kvpoll import KVPoll, Outcome, StatusStore, Update
from redis_kvpoll.engine.reads import next_page
from redis_kvpoll.protocol.scan import Scan
from tests.support.internals import executor_of, run
from tests.support.servers import room_keys

BOOT, MOVE, DONE, FAIL = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success, KVPoll.Failed
KEPT = 1
"""A room that nobody but its opener touches."""


class Restartable:
    """A server whose data survive it, the store of an opener on it, and the store of another process."""

    def __init__(self, world, folder):
        self._world = world
        self._options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(folder))
        self._server = world.serve(*self._options)
        self.opener = world.open(self._server.tcp)
        self.kept = self.opener.open(KEPT)

    @property
    def other(self):
        return StatusStore(self._server.store_client())

    def restart(self):
        """Kill the server, start it again on its port, and let the opener meet it. Its rooms must be as before."""
        before = self.rooms()
        os.kill(self._server.pid, signal.SIGKILL)
        self._server = self._world.restart(self._server, *self._options)
        assert self.kept.status() is BOOT
        assert self.rooms() == before

    def rooms(self):
        with self._server.client(decode_responses=True) as client:
            return room_keys(client)


@pytest.fixture
def restartable(world, tmp_path):
    return Restartable(world, tmp_path)


@pytest.mark.parametrize("has_failed", [False, True], ids=["live", "failed"])
def test_room_cleared_by_another_stays_absent(restartable, has_failed):
    """Else who has read Failed would read Bootstrapping."""
    room = restartable.opener.open(2)
    with restartable.other as other:
        if has_failed:
            other.abort(2, "why")
        other.clear(2)
    restartable.restart()
    assert room.update(DONE) == Update(Outcome.STALE, None)
    assert restartable.opener.get(2) is None


def test_room_failed_by_another_stays_failed(restartable):
    room = restartable.opener.open(2)
    with restartable.other as other:
        other.abort(2, "why")
    restartable.restart()
    assert room.status() is FAIL
    assert restartable.opener.failure_reason(2) == "why"


@pytest.mark.parametrize("is_plain", [False, True], ids=["opened", "plain"])
def test_failed_replacement_stays_failed(restartable, is_plain):
    """Another process has cleared the room and created it once more, by a handle or by a plain update."""
    room = restartable.opener.open(2, request="first")
    with restartable.other as other:
        other.clear(2)
        _ = other.update_status(2, BOOT) if is_plain else other.open(2, request="second")
        other.abort(2, "why")
    restartable.restart()
    assert room.update(MOVE).outcome is Outcome.STALE
    assert restartable.opener.get(2) is FAIL


def test_generation_never_goes_back(restartable):
    """Another process has cleared the room, opened it again, and cleared that."""
    room = restartable.opener.open(2)
    with restartable.other as other:
        other.clear(2)
        second = other.open(2, request="second")
        second.clear()
    restartable.restart()
    assert restartable.opener.get(2) is None
    with restartable.other as other:
        third = other.open(2, request="third")
    assert third.generation > second.generation > room.generation


def test_own_writes_go_on(restartable):
    """The newest write of all was the opener's own, or another's."""
    rooms = [restartable.opener.open(room) for room in range(2, 5)]
    rooms[0].update(MOVE)
    with restartable.other as other:
        other.update_status(3, MOVE)
    rooms[2].update(DONE)
    restartable.restart()
    assert [room.status() for room in rooms] == [MOVE, MOVE, DONE]
    assert rooms[0].update(DONE).outcome is Outcome.ADVANCED


def test_interrupted_listing_has_every_room(restartable):
    """A cursor of SCAN means nothing to another server, and a restarted one is another."""
    store, rooms = restartable.opener, range(KEPT, 3_000)
    store.update_many(dict.fromkeys(rooms, BOOT))
    scan, executor = Scan(clustered=False), executor_of(store)
    found = run(store, next_page(executor, scan, "rooms"))
    restartable.restart()
    while (page := run(store, next_page(executor, scan, "rooms"))) is not None:
        found += page
    assert sorted(found) == list(rooms)
