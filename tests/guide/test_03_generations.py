"""Chapter 3: a generation keeps the messages of one request apart from the next request's."""

from __future__ import annotations

import pickle

import pytest

from redis_kvpoll import KVPoll, Outcome, RoomBusyError


def test_open_returns_a_handle_of_one_generation(store):
    """``open`` claims a room; the with block clears it at its end."""
    with store.open(42, request="rid-1") as room:
        room.update(KVPoll.Success)
        assert room.status() is KVPoll.Success
    assert store.get(42) is None


def test_late_write_through_a_handle_is_stale(store):
    """Once the room was cleared and used again, the old handle changes nothing."""
    old = store.open(42, request="rid-1")
    old.clear()
    new = store.open(42, request="rid-2")
    assert old.fail("late").outcome is Outcome.STALE
    assert new.status() is KVPoll.Bootstrapping


def test_busy_room_is_refused(store, peer):
    """Two requests cannot have the same room; the error names the request that has it."""
    store.open(42, request="rid-1")
    with pytest.raises(RoomBusyError, match="rid-1"):
        peer.open(42, request="rid-2")


def test_handle_can_be_sent_to_another_process(store, peer):
    """A handle is pickled like any value; ``attach`` binds it to the receiver's store."""
    sent = pickle.dumps(store.open(42, request="rid-1"))
    room = peer.attach(pickle.loads(sent))
    assert room.update(KVPoll.Transferring).outcome is Outcome.ADVANCED
