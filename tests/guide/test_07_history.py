"""Chapter 7: every change is in the feed, which can be read back and followed."""

from __future__ import annotations

from itertools import islice

from redis_kvpoll import KVPoll


def test_history_lists_the_changes_of_a_room(store):
    """Oldest first; a cleared room has no status."""
    store.update_status(42, KVPoll.Bootstrapping)
    store.abort(42, "client went away")
    store.clear(42)
    assert [(change.status, change.reason) for change in store.history(42)] == [
        (KVPoll.Bootstrapping, None),
        (KVPoll.Failed, "client went away"),
        (None, None),
    ]


def test_tail_follows_the_changes_of_all_rooms(store, peer):
    """``tail(n)`` gives the last n changes, then each new one when it comes."""
    store.update_many({1: KVPoll.Bootstrapping, 2: KVPoll.Bootstrapping})
    changes = store.tail(1)
    assert next(changes).room == 2
    peer.update_status(1, KVPoll.Success)
    assert [(change.room, change.status) for change in islice(changes, 1)] == [(1, KVPoll.Success)]
