"""Chapter 4: a mirror answers a poll at the speed of a dict, and a wait wakes on the change."""

from __future__ import annotations

import threading

import pytest

from redis_kvpoll import KVPoll, RoomNotFoundError, WaitTimeoutError


def test_mirror_shows_own_writes_at_once(store):
    """A mirror is a local copy of the table; its own process's writes are in it when they return."""
    with store.mirror() as mirror:
        store.update_status(42, KVPoll.Bootstrapping)
        assert mirror.get(42) is KVPoll.Bootstrapping


def test_mirror_follows_other_processes(store, peer):
    """It follows the change feed; ``wait`` returns once the room is at a status, or beyond."""
    peer.update_status(42, KVPoll.Bootstrapping)
    with store.mirror() as mirror:
        peer.update_status(42, KVPoll.Transferring)
        assert mirror.wait(42, KVPoll.Transferring, timeout=30) is KVPoll.Transferring
        assert mirror.poll([42, 43]) == [KVPoll.Transferring, None]


def test_wait_needs_no_mirror(store, peer):
    """``store.wait`` sleeps until the room has ended, by Success or Failed."""
    store.update_status(42, KVPoll.Transferring)
    threading.Timer(0.1, peer.update_status, [42, KVPoll.Success]).start()
    assert store.wait(42, timeout=30) is KVPoll.Success


def test_wait_ends_by_timeout_or_when_the_room_goes(store):
    """A timeout says what was seen last; a room that is absent, or is cleared, ends the wait at once."""
    store.update_status(42, KVPoll.Transferring)
    with pytest.raises(WaitTimeoutError, match="Transferring"):
        store.wait(42, timeout=0.01)
    with pytest.raises(RoomNotFoundError):
        store.wait(43)
