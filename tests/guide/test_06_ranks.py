"""Chapter 6: with several ranks, a room has a status a rank and a consensus of all."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, Outcome, StatusStore


@pytest.fixture
def ranks(url):
    """The stores of both ranks; in production each is in a process of its own."""
    stores = [StatusStore.from_url(url, namespace="prod", rank=rank, world_size=2) for rank in range(2)]
    yield stores
    for store in stores:
        store.close()


def test_consensus_is_the_lowest_of_all_ranks(ranks):
    """A rank that is missing keeps the consensus at Bootstrapping."""
    first, second = ranks
    first.update_status(42, KVPoll.Success)
    assert first.consensus([42])[0].status is KVPoll.Bootstrapping
    second.update_status(42, KVPoll.Transferring)
    assert first.consensus([42])[0].status is KVPoll.Transferring


def test_each_rank_reads_its_own_status(ranks):
    """``get`` and ``poll`` give this rank's status, ``collect`` all of them."""
    first, second = ranks
    first.update_status(42, KVPoll.Success)
    second.update_status(42, KVPoll.Transferring)
    assert (first.get(42), second.get(42)) == (KVPoll.Success, KVPoll.Transferring)
    assert first.collect(42) == {0: KVPoll.Success, 1: KVPoll.Transferring}


def test_mirror_keeps_the_consensus_up(ranks):
    """``mirror.consensus`` is a dict look-up a room: a scheduler may ask it for all its rooms in every round."""
    first, second = ranks
    for store in ranks:
        store.update_status(42, KVPoll.Transferring)
    with first.mirror() as mirror:
        assert mirror.consensus([42, 43]) == {42: KVPoll.Transferring, 43: None}
        second.abort(42)
        assert mirror.wait(42, KVPoll.Failed, timeout=30) is KVPoll.Failed
        assert mirror.consensus([42]) == {42: KVPoll.Failed}


def test_failure_of_one_rank_fails_all(ranks):
    """``abort`` fails every rank, also one that has not written yet."""
    first, second = ranks
    first.update_status(42, KVPoll.Transferring)
    first.abort(42, "out of memory")
    assert second.update_status(42, KVPoll.Bootstrapping).outcome is Outcome.FAILED
    assert second.failure_reason(42) == "out of memory"


def test_room_goes_with_the_last_clear(ranks):
    """A rank that has cleared reads nothing, and its last status still counts for the others."""
    first, second = ranks
    for store in ranks:
        store.update_status(42, KVPoll.Success)
    first.clear(42)
    assert first.get(42) is None
    assert second.consensus([42])[0].status is KVPoll.Success
    second.clear(42)
    assert second.consensus([42])[0].status is None
