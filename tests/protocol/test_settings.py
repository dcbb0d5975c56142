"""The settings of a namespace: stores with other settings are refused."""

from __future__ import annotations

import time

import pytest
import redis

from redis_kvpoll import AsyncStatusStore, KVPoll, NamespaceMismatchError, StatusStore
from redis_kvpoll.protocol.settings import Settings
from tests.support import real

KEY = "kvpoll:{prod}:settings"
WEEK_MS = 7 * 24 * 3600 * 1000
DEFAULTS = {"schema": "3", "policy": "compat", "shards": "1", "mode": "none", "feed_length": "100000"}


class TestAgreement:
    def test_first_user_writes_settings_for_a_week(self, make_store, client):
        make_store(namespace="prod", policy="strict", shards=8, mode="prefill", feed_length=0).poll([1])
        asked = {"policy": "strict", "shards": "8", "mode": "prefill", "feed_length": "0"}
        assert client.hgetall(KEY) == DEFAULTS | asked
        assert WEEK_MS - 60_000 < client.pttl(KEY) <= WEEK_MS

    def test_none_takes_defaults_in_new_namespace(self, make_store, client):
        make_store(namespace="prod").poll([1])
        assert client.hgetall(KEY) == DEFAULTS

    def test_none_adopts_existing_settings(self, make_store, client):
        make_store(namespace="prod", policy="strict", shards=8, mode="prefill", feed_length=500).poll([1])
        second = make_store(namespace="prod")
        second.update_status(5, KVPoll.Success)  # strict: skipped
        second.update_status(7, KVPoll.Bootstrapping)
        assert second.settings() == Settings("strict", 8, "prefill", 500)
        assert list(client.scan_iter("*:room:*")) == ["kvpoll:{prod/2}:room:7"]

    @pytest.mark.parametrize(
        ("option", "ours", "theirs"),
        [
            ("policy", "strict", "compat"),
            ("shards", 4, "1"),
            ("mode", "prefill", "none"),
            ("feed_length", 0, "100000"),
            ("feed_length", 50, "100000"),
        ],
    )
    def test_other_setting_is_refused_and_writes_nothing(self, make_store, client, option, ours, theirs):
        make_store(namespace="prod").update_status(1, KVPoll.Transferring)
        client.pexpire(KEY, 100_000)
        before = {key: client.dump(key) for key in client.scan_iter()}
        second = make_store(namespace="prod", **{option: ours})
        for write in (lambda: second.update_status(2, 1), lambda: second.clear(1), lambda: second.update_many({3: 1})):
            with pytest.raises(NamespaceMismatchError) as caught:
                write()
        error = caught.value
        assert (error.namespace, error.setting, error.ours, error.theirs) == ("prod", option, str(ours), theirs)
        assert f"{option}={ours}" in str(error)
        assert f"{option}={theirs}" in str(error)
        assert {key: client.dump(key) for key in client.scan_iter()} == before
        assert client.pttl(KEY) <= 100_000

    @pytest.mark.parametrize("schema", ["2", "4"])
    def test_other_schema_is_refused(self, make_store, client, schema):
        """Version 1 had no feed: mirrors would never see its writes."""
        client.hset(KEY, mapping=DEFAULTS | {"schema": schema})
        client.expire(KEY, 600)
        with pytest.raises(NamespaceMismatchError, match=f"schema={schema}, which this version does not know"):
            make_store(namespace="prod").update_status(1, 1)
        assert list(client.scan_iter()) == [KEY]

    @pytest.mark.parametrize(
        ("setting", "there"),
        [("policy", "Strict"), ("shards", "08"), ("mode", ""), ("feed_length", "many"), ("feed_length", "-1")],
    )
    def test_unknown_value_is_not_adopted(self, make_store, client, setting, there):
        client.hset(KEY, mapping=DEFAULTS | {setting: there})
        client.expire(KEY, 600)
        with pytest.raises(NamespaceMismatchError, match=f"{setting}={there}, which this version does not know"):
            make_store(namespace="prod").update_status(1, 1)
        assert list(client.scan_iter()) == [KEY]

    def test_refused_store_works_once_settings_are_gone(self, make_store, client):
        make_store(namespace="prod").poll([1])
        second = make_store(namespace="prod", policy="strict")
        with pytest.raises(NamespaceMismatchError):
            second.poll([1])
        client.delete(KEY)
        assert second.poll([1]) == [None]
        assert client.hget(KEY, "policy") == "strict"

    def test_namespaces_are_separate(self, make_store):
        one, other = make_store(namespace="one"), make_store(namespace="other", policy="strict", shards=2)
        one.update_status(1, 1)
        other.update_status(1, 2)
        assert (one.get(1), other.get(1)) == (KVPoll.Bootstrapping, KVPoll.WaitingForInput)
        assert (list(one.rooms()), list(other.rooms())) == ([1], [1])

    def test_reading_settings_writes_nothing(self, make_store, client):
        store = make_store(namespace="prod", policy="strict")
        assert store.settings() is None
        assert client.dbsize() == 0
        make_store(namespace="prod", policy="strict").poll([1])
        client.pexpire(KEY, 100_000)
        assert store.settings() == Settings("strict", 1, "none", 100_000)
        assert client.pttl(KEY) <= 100_000

    def test_reading_settings_is_refused_on_mismatch(self, make_store):
        make_store(namespace="prod").poll([1])
        with pytest.raises(NamespaceMismatchError):
            make_store(namespace="prod", mode="decode").settings()


def test_settings_are_renewed_hourly(make_store, client, monkeypatch):
    store = make_store(namespace="prod")
    store.poll([1])
    client.pexpire(KEY, 100_000)
    now = time.monotonic()
    monkeypatch.setattr("redis_kvpoll.engine.executor.time.monotonic", lambda: now + 3500)
    store.poll([1])
    assert client.pttl(KEY) <= 100_000
    monkeypatch.setattr("redis_kvpoll.engine.executor.time.monotonic", lambda: now + 3700)
    store.poll([1])
    assert client.pttl(KEY) > 100_000


@pytest.mark.parametrize("maker", [StatusStore, AsyncStatusStore])
def test_constructor_does_no_io(maker):
    nowhere = f"redis://127.0.0.1:{real.free_port()}"
    module = redis if maker is StatusStore else redis.asyncio
    maker.from_url(nowhere)
    maker(module.Redis.from_url(nowhere))
    maker.from_url(nowhere.replace("redis:", "redis+cluster:"))
    maker.from_url(nowhere.replace("redis:", "redis+sentinel:") + "/main")


class TestAfterReconnect:
    """The server was restarted without its data, and another store wrote its settings first."""

    @pytest.mark.parametrize(("call", "arguments"), [("update_status", [1, KVPoll.Bootstrapping]), ("clear", [1])])
    def test_other_settings_are_refused_after_restart(self, world, call, arguments):
        server = world.serve()
        store = world.open(server.tcp, namespace="prod", shards=4)
        store.update_status(1, KVPoll.Bootstrapping)
        server = world.restart(server)
        with StatusStore.from_url(server.url, namespace="prod", shards=2) as other:
            other.update_status(1, KVPoll.Transferring)
        with server.client() as client:
            before = sorted(client.scan_iter())
            with pytest.raises(NamespaceMismatchError, match=r"shards=2.*shards=4"):
                getattr(store, call)(*arguments)
            assert sorted(client.scan_iter()) == before

    def test_adopted_settings_are_kept_after_restart(self, world):
        server = world.serve()
        with StatusStore.from_url(server.url, namespace="prod", policy="strict") as other:
            other.poll([1])
        store = world.open(server.tcp, namespace="prod")
        store.poll([1])
        server = world.restart(server)
        assert store.update_status(1, KVPoll.Success).status is None  # strict still
        with server.client() as client:
            assert client.hget(KEY, "policy") == b"strict"
