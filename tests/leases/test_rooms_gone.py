"""Rooms of a living owner that go before their time: its next touch says so. Blocking and asyncio.

The server's clock may have been set forward, or somebody has removed them. A touch that finds all data gone restores
them instead.
"""

from __future__ import annotations

import logging
import time

import pytest

from redis_kvpoll import KVPoll, Outcome
from tests.support import real
from tests.support.internals import make_touch_due, rooms_to_touch, tracked_rooms_of
from tests.support.leasing import ManualLease

BOOT, MOVE, DONE = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success
OWNED, ROOM = "kvpoll:{default}:owned", "kvpoll:{default}:room:%d"


@pytest.fixture
def held(store):
    return ManualLease(store).take()


def touched(held):
    make_touch_due(held.keeper)
    while rooms_to_touch(held.heartbeat().keeper):
        pass


def gone(caplog):
    return [record.getMessage() for record in caplog.records if "gone from the server" in record.getMessage()]


def test_touch_reports_rooms_that_expired_early(held, client, caplog):
    """Every key that is due goes at once: only the lease is renewed in time."""
    caplog.set_level(logging.WARNING, "redis_kvpoll")
    rooms = [held.store.open(room) for room in range(4)]
    rooms[3].update(DONE)
    held.store.update_status(9, BOOT)
    for room in (0, 1, 9):
        client.delete(f"kvpoll:{{default}}:room:{room}")
    touched(held)
    (said,) = gone(caplog)
    assert "3 rooms" in said
    assert not held.keeper.lost
    assert rooms[0].update(MOVE).outcome is Outcome.STALE
    assert rooms[2].update(MOVE).outcome is Outcome.ADVANCED
    assert sorted(tracked_rooms_of(held.store).in_shard("default")) == [2, 3]
    touched(held)
    assert len(gone(caplog)) == 1, "once"


def test_touch_reports_nothing_that_was_cleared_or_ended(held, make_store, caplog):
    caplog.set_level(logging.WARNING, "redis_kvpoll")
    rooms = [held.store.open(room) for room in range(3)]
    rooms[0].clear()
    rooms[1].update(DONE)
    make_store().clear(2)
    touched(held)
    assert held.store.touch([0, 1]) == 0
    assert not gone(caplog)


def test_touch_reports_no_room_that_expired_after_its_end(make_store, client, caplog):
    """It was not cleared, by nobody's fault. Its entry in the owner's list is left for the touch."""
    caplog.set_level(logging.WARNING, "redis_kvpoll")
    store = make_store(terminal_ttl=0.2)
    held = ManualLease(store).take()
    store.open(1).fail("out of memory")
    ended_elsewhere = store.open(2)
    make_store(terminal_ttl=0.2).attach(2).update(DONE)
    touched(held)
    real.until(lambda: not client.exists(ROOM % 1, ROOM % 2), "the end of their TTLs")
    assert client.zcard(OWNED) == 2
    touched(held)
    assert (gone(caplog), client.zcard(OWNED)) == ([], 0)
    assert ended_elsewhere.update(MOVE).outcome is Outcome.STALE


def test_room_that_has_just_expired_is_still_known(store, monkeypatch):
    """Without that, the touch that finds it absent could not tell that it has ended."""
    tracked = tracked_rooms_of(store)
    rooms = [store.open(room) for room in range(2)]
    here = tracked.in_shard("default")
    here[0].until, here[1].until = time.monotonic() - 1, time.monotonic() - tracked.ttl
    monkeypatch.setattr(tracked, "_sweep_at", 2)
    store.open(2)
    assert sorted(here) == [0, 2]
    assert len(rooms) == 2


def test_touch_without_lease_reports_held_room(store, client, caplog):
    caplog.set_level(logging.WARNING, "redis_kvpoll")
    store.open(1)
    store.open(2)
    client.delete("kvpoll:{default}:room:1")
    assert store.touch([1, 2, 3]) == 1
    (said,) = gone(caplog)
    assert "1 rooms" in said
    assert store.touch([1, 2, 3]) == 1
    assert len(gone(caplog)) == 1


def test_touch_after_loss_of_all_data_restores_rooms(store, client, caplog):
    room = store.open(1)
    room.update(MOVE)
    client.flushall()
    assert store.touch([1]) == 1
    assert not gone(caplog)
    assert room.update(DONE).outcome is Outcome.ADVANCED


def test_touch_reports_no_room_that_awaits_its_creator(make_store, client, caplog):
    opened, other = make_store().open(1), make_store()
    attached = other.attach(1)
    client.flushall()
    assert other.touch([1]) == 0
    assert not gone(caplog)
    assert 1 in tracked_rooms_of(other).in_shard("default")
    assert opened.status() is BOOT
    assert attached.update(MOVE).outcome is Outcome.ADVANCED
