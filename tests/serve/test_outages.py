"""Redis goes away, comes back empty, and fails over: the page and /readyz say so, and the process goes on."""

from __future__ import annotations

import logging

import pytest

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.serve.config import ServeConfig
from redis_kvpoll.serve.examine import Examination
from tests.support import examining, pace, real
from tests.support.serving import Serving, viewer_url


@pytest.fixture
def world():
    with real.World("sync") as world:
        yield world


@pytest.fixture
def start():
    started = []

    def start(url, examine_of=None):
        serving = Serving(ServeConfig(url, ("prod",)), examine_of=examine_of)
        serving.start()
        started.append(serving)
        return serving

    yield start
    for serving in started:
        serving.stop()


def becomes(serving, status, words):
    def is_so():
        answer = serving.get("/readyz")
        return answer.status == status and words in answer.body

    real.until(is_so, f"/readyz with {status} and {words!r}", 60)


def test_restart_with_nothing_is_seen_and_survived(world, start):
    server = world.serve()
    store = world.open(server.tcp, namespace="prod")
    store.update_status(1, KVPoll.Bootstrapping)
    serving = start(viewer_url(server))
    becomes(serving, 200, "ready")
    with serving.events("/") as views:
        assert next(views)["texts"]["state"][1] == "good"
        server.stop()
        becomes(serving, 503, "Redis does not answer")
        away = next(view for view in views if view["texts"]["state"][0].startswith("Redis does not answer since "))
        assert away["texts"]["state"][1] == "bad"
        assert "Not known: the feed was not read" in serving.get("/feed").text
        assert "only-looks" not in away["texts"]["detail"]
        assert serving.get("/healthz").body == "ok\n"  # a restart of this process would not help
        world.forget(server)
        again = world.serve(port=server.port)
        viewer_url(again)
        with StatusStore.from_url(again.tcp, namespace="prod", deadline=pace.seconds(5)) as other:
            other.update_status(2, KVPoll.Transferring)
        becomes(serving, 200, "ready")
        next(view for view in views if any(row[0] == "2" for row in view["tables"]["rooms"]))


def test_start_without_redis_waits_for_it(world, start):
    port = real.free_port()
    serving = start(f"redis://127.0.0.1:{port}")
    becomes(serving, 503, "Redis does not answer")
    serving.until("/", "Redis does not answer since")
    assert "not known" in serving.get("/room/1").text
    unknown = serving.get("/find?q=rid")
    assert unknown.status == 503
    assert "Not all rooms were looked at: Redis does not answer since" in unknown.text
    assert 'kvpoll_exporter_synced{namespace="prod"} 0.0' in serving.get("/metrics").body
    server = world.serve(port=port)
    with StatusStore.from_url(server.tcp, namespace="prod", deadline=pace.seconds(5)) as store:
        store.update_status(1, KVPoll.Bootstrapping)
    becomes(serving, 200, "ready")


@pytest.mark.parametrize("how", ["schema", "right", "password"])
def test_server_that_refuses_does_answer(world, start, how):
    """Who reads that Redis does not answer looks at the network."""
    server = world.serve()
    world.open(server.tcp, namespace="prod").update_status(1, KVPoll.Bootstrapping)
    url = viewer_url(server)
    with server.client() as client:
        if how == "schema":
            client.hset("kvpoll:{prod}:settings", "schema", "99")
        elif how == "right":
            client.acl_setuser("viewer", enabled=True, commands=["-hmget"])
    serving = start(url.replace("only-looks", "wrong") if how == "password" else url)
    becomes(serving, 503, "refuses the calls")
    page = serving.until("/", "The table cannot be read")
    assert "does not answer" not in page.text
    assert {"schema": "schema", "right": "NOPERM", "password": "WRONGPASS"}[how] in page.text


def test_flush_is_seen_as_a_loss(world, start):
    server = world.serve()
    store = world.open(server.tcp, namespace="prod")
    store.update_status(1, KVPoll.Bootstrapping)
    serving = start(viewer_url(server))
    becomes(serving, 200, "ready")
    serving.until("/", "Bootstrapping")
    with server.client() as client:
        client.flushall()
    store.update_status(2, KVPoll.Bootstrapping)
    real.until(lambda: 'data-key="2"' in serving.get("/").body, "the new room", 60)
    none = 'kvpoll_exporter_resyncs_total{namespace="prod"} 0.0'
    real.until(lambda: none not in serving.get("/metrics").body, "a resync in the metrics", 60)


def test_namespace_that_is_gone_is_not_called_unopened(world, start, caplog):
    """Between its loss and the doctor's next look. The log has the times, which Redis does not keep."""
    caplog.set_level(logging.WARNING, "redis_kvpoll.serve")
    server = world.serve()
    world.open(server.tcp, namespace="prod").update_status(1, KVPoll.Bootstrapping)
    serving = start(viewer_url(server))
    serving.until("/", "Synced")
    with server.client() as client:
        client.flushall()
    page = serving.until("/", "Namespace not found")
    assert "It was here before: its data is gone" in page.text
    assert "No process has opened it" not in page.text
    assert "namespace prod: not found any more: its data is gone, or it has expired" in caplog.messages
    world.open(server.tcp, namespace="prod").update_status(1, KVPoll.Bootstrapping)
    real.until(lambda: "namespace prod: it is there" in caplog.messages, "the line of its return", 60)


def test_absent_namespace_is_named_and_awaited(world, start):
    server = world.serve()
    serving = start(viewer_url(server))
    page = serving.until("/", "Namespace not found")
    assert "No process has opened it" in page.text
    assert serving.get("/readyz").status == 200
    # A namespace that is yet to come is no fault: an alert on them must not fire.
    series = ("kvpoll_exporter_synced{", "kvpoll_exporter_lag_seconds{")
    assert not any(name in serving.get("/metrics").body for name in series)
    assert "not in the table" in serving.get("/room/1").text
    assert serving.get("/feed").status == 200
    with server.client() as client:
        assert client.dbsize() == 0  # looking creates nothing
    with StatusStore.from_url(server.tcp, namespace="prod", deadline=pace.seconds(5)) as store:
        store.update_status(1, KVPoll.Bootstrapping)
    serving.until("/", "Synced")
    assert all(name in serving.get("/metrics").body for name in series)


def test_table_whose_settings_are_gone_is_not_called_absent(world, start, monkeypatch):
    """They alone were evicted or deleted, and nobody has written them again yet."""
    examining.be_patient(monkeypatch)
    monkeypatch.setattr("redis_kvpoll.serve.watch.DOCTOR_INTERVAL", 0.1)
    server = world.serve()
    world.open(server.tcp, namespace="prod").update_status(1, KVPoll.Bootstrapping)
    with server.client() as client:
        assert client.delete("kvpoll:{prod}:settings") == 1
    serving = start(viewer_url(server), lambda *of: lambda _: Examination(examining.doctor_of(*of).examine(), "", ""))
    page = serving.until("/", "the settings of namespace 'prod' are gone (evicted or deleted), its table is not")
    assert "No process has opened it" not in page.text


def test_namespace_without_a_feed_is_read_each_minute(world, start):
    server = world.serve()
    store = world.open(server.tcp, namespace="prod", feed_length=0)
    store.update_status(1, KVPoll.Bootstrapping)
    serving = start(viewer_url(server))
    page = serving.until("/", "keeps no feed")
    assert page.row("1")[1] == "Bootstrapping"
    assert "feed_length=0" in serving.get("/feed").text
    for path in ("/", "/failed"):
        text = serving.get(path).text
        assert ("feed_length=0" in text, "No room has failed" in text) == (True, False), path
    assert serving.get("/room/1").status == 200


def test_failover_goes_on_at_the_new_primary(failover, start):
    url = f"redis://127.0.0.1:{failover.service.port}"
    with StatusStore.from_url(url, namespace="prod") as store:
        store.update_status(1, KVPoll.Bootstrapping)
        serving = start(url)
        becomes(serving, 200, "ready")
        failover.wait_for_replica()
        failover.pause()
        failover.promote()
        failover.service.cut()
        store.update_status(2, KVPoll.Bootstrapping)
        real.until(lambda: 'data-key="2"' in serving.get("/").body, "the room after the failover", 60)
        becomes(serving, 200, "ready")
        assert serving.get("/").row("1")[1] == "Bootstrapping"
