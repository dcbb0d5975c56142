"""Chapter 1: a room has one status, which all processes share."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, Outcome, RoomNotFoundError


def test_first_update_creates_the_room(store, peer):
    """The first status creates a room; every other process can read it at once."""
    update = store.update_status(42, KVPoll.Bootstrapping)
    assert update.outcome is Outcome.CREATED
    assert peer.get(42) is KVPoll.Bootstrapping


def test_status_only_moves_forward(store):
    """Statuses are merged on the server: a message that comes late changes nothing."""
    store.update_status(42, KVPoll.Transferring)
    late = store.update_status(42, KVPoll.WaitingForInput)
    assert late.outcome is Outcome.UNCHANGED
    assert late.status is KVPoll.Transferring


def test_poll_reads_many_rooms_in_one_round_trip(store):
    """``poll`` answers in the order of its argument; an absent room is None."""
    store.update_many({1: KVPoll.Success, 2: KVPoll.Transferring})
    assert store.poll([2, 3, 1]) == [KVPoll.Transferring, None, KVPoll.Success]


def test_absent_room_is_none_or_an_error(store):
    """``get`` returns a default, ``check_status`` raises a KeyError, as SGLang's dict does."""
    assert store.get(42) is None
    with pytest.raises(RoomNotFoundError):
        store.check_status(42)


def test_clear_frees_the_room(store):
    """``clear`` returns the last status; afterwards the room id can be used again."""
    store.update_status(42, KVPoll.Success)
    assert store.clear(42) is KVPoll.Success
    assert store.get(42) is None


def test_every_room_expires(url, store):
    """Each write sets a time to live, so that nothing leaks; ``touch`` keeps a live room longer."""
    store.update_status(42, KVPoll.Bootstrapping)
    assert 800 < store.entry(42).ttl <= 900  # the default of ``ttl``
    assert store.touch([42]) == 1
    store.update_status(42, KVPoll.Success)
    assert store.entry(42).ttl <= 300  # the default of ``terminal_ttl``
