"""What a restored room still tells of its past: its opening, its last write, and that it was restored."""

from __future__ import annotations

import time

import pytest

from redis_kvpoll import KVPoll

PAUSE = 0.3
"""Seconds between what happens to a room. The id of an entry is some milliseconds later than what it tells."""


def restored(store, client):
    """Room 1 as it was, and after a loss of all data some milliseconds later."""
    handle = store.open(1, request="rid-1")
    time.sleep(PAUSE)
    handle.update(KVPoll.Transferring)
    before = store.entry(1)
    return before, lost(store, client, handle)


def lost(store, client, handle):
    """Room 1 after a loss of all data."""
    time.sleep(PAUSE)
    client.flushall()
    handle.status()
    return store.entry(1)


def test_restored_room_keeps_its_times(store, client):
    before, after = restored(store, client)
    assert before.restored_at is None
    assert after.opened_at == pytest.approx(before.opened_at, abs=PAUSE / 2)
    assert after.updated_at == pytest.approx(before.updated_at, abs=PAUSE / 2)
    assert after.restored_at > before.updated_at


def test_rows_of_restored_rooms_keep_their_times(store, client):
    before, _ = restored(store, client)
    (row,) = store.rows()
    assert row.opened_at == pytest.approx(before.opened_at, abs=PAUSE / 2)
    assert row.since == pytest.approx(before.updated_at, abs=PAUSE / 2)


def test_room_that_is_lost_again_keeps_its_times(store, client):
    """The first restore is no change of the room, nor is a heartbeat's mark."""
    before, first = restored(store, client)
    after = lost(store, client, store.attach(1))
    assert after.restored_at > first.restored_at
    assert after.updated_at == pytest.approx(before.updated_at, abs=PAUSE / 2)
    assert after.opened_at == pytest.approx(before.opened_at, abs=PAUSE / 2)


def test_room_is_never_updated_before_it_was_opened(store):
    for room in range(50):
        store.open(room)
    assert all(entry.opened_at <= entry.updated_at for entry in store.entries(range(50)).values())
    assert all(row.opened_at <= row.since for row in store.rows())
