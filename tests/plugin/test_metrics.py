"""What Prometheus reads of the link, through the real client library where that is installed."""

from __future__ import annotations

import pytest

from redis_kvpoll.integrations.sglang.metrics import LinkMetrics
from tests.support import real
from tests.support.standin import joined, manager

prometheus_client = pytest.importorskip("prometheus_client")


def value(name, owner, role="prefill"):
    return prometheus_client.REGISTRY.get_sample_value(name, {"role": role, "owner": owner})


def test_metrics_updated_twice_have_the_latest_values():
    metrics = LinkMetrics("prefill", "prefill/a")
    for is_up, pending, dropped in ((False, 3, 2), (True, 1, 5)):
        metrics.update(is_up, pending, dropped, 2 * dropped)
        assert value("kvpoll_link_up", "prefill/a") == is_up
        assert value("kvpoll_link_pending_rooms", "prefill/a") == pending
        assert value("kvpoll_link_dropped_rooms_total", "prefill/a") == dropped
        assert value("kvpoll_link_orphaned_rooms_total", "prefill/a") == 2 * dropped


def test_dropped_rooms_of_a_second_join_are_added():
    """SGLang makes a new manager when an instance changes its role and back; a counter never falls."""
    for _ in range(2):
        LinkMetrics("prefill", "prefill/b").update(True, 0, 4, 0)
    assert value("kvpoll_link_dropped_rooms_total", "prefill/b") == 8


def test_total_that_falls_changes_no_counter():
    metrics = LinkMetrics("prefill", "prefill/c")
    for dropped in (5, 2, 6):
        metrics.update(True, 0, dropped, dropped)
    assert value("kvpoll_link_dropped_rooms_total", "prefill/c") == 6
    assert value("kvpoll_link_orphaned_rooms_total", "prefill/c") == 6


def test_metrics_that_cannot_be_set_raise_nothing(monkeypatch, caplog):
    """With several processes their values are in files, and a disk may be full: no reason to leave the table."""
    metrics = LinkMetrics("prefill", "prefill/d")
    monkeypatch.setattr(prometheus_client.Gauge, "set", lambda *_: 1 / 0)
    for _ in range(3):
        metrics.update(True, 0, 1, 1)
    assert caplog.text.count("the metrics of the link cannot be set") == 1


def test_metrics_that_cannot_be_made_keep_no_one_from_joining(url, monkeypatch, caplog):
    monkeypatch.setenv("KVPOLL_URL", url)
    monkeypatch.setattr(prometheus_client.Gauge, "labels", lambda *_: 1 / 0)
    sglang = manager()
    with joined(sglang):
        assert hasattr(sglang, "kvpoll_worker")
    assert caplog.text.count("the link has no metrics in this process") == 1


def test_joined_process_is_up_until_it_leaves(url, monkeypatch):
    monkeypatch.setenv("KVPOLL_URL", url)
    owner = "prefill/10.0.0.1:8998"
    with joined(manager()):
        real.until(lambda: value("kvpoll_link_up", owner) == 1, "it is up")
    assert value("kvpoll_link_up", owner) == 0
