"""Settings that are gone, while all else is there: a heartbeat writes them again."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, NamespaceMismatchError, StatusStore
from redis_kvpoll.engine import session
from redis_kvpoll.protocol import keys
from tests.support.leasing import ManualLease

SETTINGS = keys.settings("default")


@pytest.fixture(autouse=True)
def at_each_heartbeat(monkeypatch):
    monkeypatch.setattr(session, "RESTORE_SECONDS", 0.0)


@pytest.fixture
def lease(make_store):
    return ManualLease(make_store(policy="strict", shards=2, feed_length=500)).take()


def test_heartbeat_writes_deleted_settings_again(lease, client):
    before = client.hgetall(SETTINGS)
    client.delete(SETTINGS)
    lease.heartbeat()
    assert client.hgetall(SETTINGS) == before
    assert client.pttl(SETTINGS) > 0


def test_heartbeats_between_do_not_ask(lease, client, monkeypatch):
    monkeypatch.setattr(session, "RESTORE_SECONDS", 3600.0)
    lease.heartbeat()  # the last that is due at once
    client.delete(SETTINGS)
    lease.heartbeat()
    assert not client.exists(SETTINGS)


def test_other_settings_by_then_refuse_the_next_call(lease, client, server):
    """The lease is renewed, but the store writes to no shard that others do not know."""
    client.delete(SETTINGS)
    with StatusStore(server.store_client(), shards=4) as other:
        other.poll([1])
    lease.heartbeat()
    with pytest.raises(NamespaceMismatchError):
        lease.store.update_status(1, KVPoll.Bootstrapping)


def test_refused_settings_end_no_heartbeat(lease, client):
    """As at maxmemory, where nothing may be created."""
    client.delete(SETTINGS)
    client.set(SETTINGS, "of another type", ex=1000)
    lease.heartbeat()
    lease.heartbeat()
    assert not lease.lost
