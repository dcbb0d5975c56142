"""Chapter 8: where the table is, and what its users must agree on."""

from __future__ import annotations

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll, NamespaceMismatchError, StatusStore, StoreUnavailableError


def test_embedded_starts_a_private_server():
    """``embedded://`` is a real server for as long as the store lives: for tests and to try things out."""
    with StatusStore.from_url("embedded://") as store:
        store.update_status(42, KVPoll.Bootstrapping)
        assert store.get(42) is KVPoll.Bootstrapping


async def test_asyncio_store_has_the_same_methods(url):
    """``AsyncStatusStore`` is the same with ``await``."""
    async with AsyncStatusStore.from_url(url, namespace="prod") as store:
        await store.update_status(42, KVPoll.Bootstrapping)
        async with store.mirror() as mirror:
            assert mirror.get(42) is KVPoll.Bootstrapping
        assert [room async for room in store.rooms()] == [42]


def test_shards_spread_a_namespace_over_a_cluster(url):
    """Each shard has its own hash tag; a batch is one call a shard. Later stores adopt the number."""
    with StatusStore.from_url(url, namespace="big", shards=8) as store:
        store.update_many(dict.fromkeys(range(100), KVPoll.Bootstrapping))
        with StatusStore.from_url(url, namespace="big") as peer:
            assert peer.counts()[KVPoll.Bootstrapping] == 100


def test_stores_of_a_namespace_must_agree(store, url):
    """The first user writes the settings; a store that was made with others is refused before it writes."""
    store.update_status(42, KVPoll.Bootstrapping)
    other = StatusStore.from_url(url, namespace="prod", policy="strict")
    with other, pytest.raises(NamespaceMismatchError, match="policy"):
        other.update_status(42, KVPoll.Success)


def test_call_fails_at_its_deadline():
    """A call retries until ``deadline``; then one error names the operation, the room and the cause."""
    store = StatusStore.from_url("redis://127.0.0.1:1", deadline=0.2)
    with store, pytest.raises(StoreUnavailableError, match="get of room 42"):
        store.get(42)
