"""Chapter 2: a failure has a reason, and a late one brings no room back."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, KVTransferError, Outcome


def test_abort_sets_failed_and_the_reason(store, peer):
    """``abort`` writes the status and the reason in one step."""
    store.update_status(42, KVPoll.Transferring)
    store.abort(42, "client went away")
    assert peer.get(42) is KVPoll.Failed
    assert peer.failure_reason(42) == "client went away"


def test_failure_exception_raises_and_clears(store):
    """SGLang's ``failure_exception``: raises the reason and clears the room, in one step."""
    store.update_status(42, KVPoll.Transferring)
    store.abort(42, "out of memory")
    with pytest.raises(KVTransferError, match="out of memory"):
        store.failure_exception(42)
    assert store.get(42) is None


def test_late_abort_creates_no_room(store):
    """An abort that comes after the clear is skipped, so the next request does not start as Failed."""
    store.update_status(42, KVPoll.Success)
    store.clear(42)
    assert store.abort(42).outcome is Outcome.SKIPPED
    assert store.update_status(42, KVPoll.Bootstrapping).outcome is Outcome.CREATED
