"""/metrics: its names, and numbers that follow the table."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.doctor.findings import Finding, Level
from redis_kvpoll.model import Owner
from redis_kvpoll.protocol.settings import Settings
from redis_kvpoll.serve.examine import Examination
from redis_kvpoll.serve.metrics import TableCollector
from redis_kvpoll.statistics.model import Histogram, Snapshot
from tests.support import pace, real

NAMES = {
    *("kvpoll_rooms", "kvpoll_oldest_room_age_seconds", "kvpoll_stuck_rooms", "kvpoll_expiring_rooms"),
    *("kvpoll_transitions", "kvpoll_failures", "kvpoll_refused_writes", "kvpoll_feed_gaps", "kvpoll_exporter_resyncs"),
    *("kvpoll_status_duration_seconds", "kvpoll_room_duration_seconds", "kvpoll_redis_call_seconds"),
    *("kvpoll_owners", "kvpoll_owner_rooms", "kvpoll_owner_heartbeat_age_seconds"),
    *("kvpoll_feed_entries", "kvpoll_feed_span_seconds", "kvpoll_exporter_synced", "kvpoll_exporter_lag_seconds"),
    *("kvpoll_doctor_check", "kvpoll_build_info"),
}


def families(serving):
    answer = serving.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(answer.body)}


def value(serving, name, **labels):
    for family in families(serving).values():
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return None


def until(serving, expected, name, **labels):
    real.until(lambda: value(serving, name, **labels) == expected, f"{name} {labels} of {expected}", 30)


def test_names_are_those_of_the_documents(serving):
    found = families(serving)
    assert set(found) == NAMES
    assert all(family.documentation for family in found.values())
    assert {family.type for family in found.values()} <= {"counter", "gauge", "histogram"}


def test_every_series_names_its_namespace_and_no_room(serving, store):
    store.open(77, request="rid-77")
    store.abort(77, "why not")
    until(serving, 1.0, "kvpoll_rooms", status="Failed")
    text = serving.get("/metrics").body
    assert "rid-77" not in text
    assert "why not" not in text
    assert 'room="' not in text
    series = [sample for family in families(serving).values() for sample in family.samples]
    assert all(sample.labels["namespace"] == "prod-prefill" for sample in series)
    assert len(series) < 250


def test_rooms_and_transitions_follow_the_table(serving, store):
    store.update_status(1, KVPoll.Bootstrapping)
    store.update_status(1, KVPoll.Transferring)
    store.update_status(2, KVPoll.Bootstrapping)
    until(serving, 1.0, "kvpoll_rooms", status="Transferring")
    until(serving, 1.0, "kvpoll_transitions_total", **{"from": "Bootstrapping", "to": "Transferring"})
    store.clear(1)
    until(serving, 1.0, "kvpoll_transitions_total", **{"from": "Transferring", "to": "cleared"})
    assert value(serving, "kvpoll_status_duration_seconds_count", status="Transferring") == 1.0


def test_counters_are_there_before_their_first_event(serving):
    """increase() of a series that begins at 1 is 0: the first room that came back would be missed."""
    assert value(serving, "kvpoll_transitions_total", **{"from": "Failed", "to": "Success"}) == 0.0
    assert value(serving, "kvpoll_transitions_total", **{"from": "absent", "to": "Transferring"}) == 0.0
    assert value(serving, "kvpoll_failures_total", reason="owner_lost") == 0.0
    assert value(serving, "kvpoll_refused_writes_total", outcome="stale") == 0.0


def test_failures_are_counted_by_kind(serving, store):
    store.update_many({1: 1, 2: 1})
    store.abort(1, "owner prefill-0 lost")
    store.abort(2, "Request 7 timed out after 300 s")
    until(serving, 1.0, "kvpoll_failures_total", reason="owner_lost")
    until(serving, 1.0, "kvpoll_failures_total", reason="timeout")


def test_refused_writes_are_counted_from_the_start_on(serve, store):
    """The server has counted before, and counts anew when it is restarted: no process could go on from there."""
    store.update_status(5, KVPoll.Success)  # strict: it creates no room
    serving = serve()
    assert value(serving, "kvpoll_refused_writes_total", outcome="skipped") == 0.0
    store.update_status(5, KVPoll.Success)
    until(serving, 1.0, "kvpoll_refused_writes_total", outcome="skipped")


def test_owners_have_their_series(serving, store):
    with store.lease("prefill-0", ttl=pace.seconds(60)):
        store.update_status(3, KVPoll.Bootstrapping)
        until(serving, 1.0, "kvpoll_owner_rooms", owner="prefill-0")
        until(serving, 1.0, "kvpoll_owners", state="alive")
        assert value(serving, "kvpoll_owner_heartbeat_age_seconds", owner="prefill-0") < 600


def test_build_info_names_the_table(serving):
    until(serving, 1.0, "kvpoll_build_info", policy="strict", schema="3", shards="1")


def test_each_shard_has_its_feed(serve, table):
    with StatusStore.from_url(table.tcp, namespace="sharded", shards=3, deadline=pace.seconds(5)) as store:
        store.update_many(dict.fromkeys(range(20), KVPoll.Bootstrapping))
        serving = serve(namespaces=("sharded",))
        found = {sample.labels["shard"]: sample.value for sample in families(serving)["kvpoll_feed_entries"].samples}
        assert set(found) == {"sharded/0", "sharded/1", "sharded/2"}
        assert min(found.values()) >= 1
        assert value(serving, "kvpoll_rooms", status="Bootstrapping") == 20.0


def test_openmetrics_is_spoken_on_request(serving):
    answer = serving.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith("# EOF\n")


FINDINGS = (Finding("reach", Level.UNKNOWN, ""), Finding("memory", Level.WARNING, ""))


def collected(snapshot, most=200, state="synced", findings=FINDINGS, settings=None):
    """The samples of a snapshot, by name and labels."""
    watch = SimpleNamespace(
        snapshot=snapshot,
        state=SimpleNamespace(word=state),
        settings=settings,
        examination=Examination(findings, "", ""),
        described=dict,
        round_trips=Histogram,
    )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(TableCollector({"prod": watch}, most, "1"))
    return {
        (sample.name, *(v for k, v in sample.labels.items() if k != "namespace")): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def owner(name, rooms=0, beat=1000.0, incarnation=1):
    return Owner(name, incarnation, 5.0, 0.5, beat, rooms=rooms)


def lost(name, at):
    """As parse_owners has it: without a heartbeat."""
    return Owner(name, 1, state="lost", lost_at=at)


def test_gauges_are_absent_while_nothing_is_known():
    """An old number would say that all is well; the counters go on."""
    seen = Snapshot("prod", 1000.0, synced=False, lag_seconds=15.1, counts=dict.fromkeys(KVPoll, 3))
    found = collected(seen)
    assert ("kvpoll_rooms", "Failed") not in found
    assert ("kvpoll_owners", "alive") not in found
    assert found["kvpoll_exporter_synced",] == 0
    assert ("kvpoll_transitions_total", "absent", "Failed") in found
    assert math.isinf(collected(Snapshot("prod", 0.0, False, math.inf))["kvpoll_exporter_lag_seconds",])


def test_gauges_without_a_feed_last_from_one_reading_to_the_next():
    seen = Snapshot("prod", 1000.0, synced=True, lag_seconds=70.0, has_feed=False)
    assert ("kvpoll_rooms", "Failed") in collected(seen)
    assert ("kvpoll_rooms", "Failed") in collected(replace(seen, lag_seconds=300.0))  # a walk of a million rooms
    assert ("kvpoll_rooms", "Failed") not in collected(replace(seen, synced=False, lag_seconds=151.0))


def test_table_without_a_feed_has_no_lag():
    """It is read once a minute: KVPollExporterBlind would fire for a lag that is meant to be."""
    found = collected(Snapshot("prod", 1000.0, synced=True, lag_seconds=59.0, has_feed=False))
    assert found["kvpoll_exporter_synced",] == 1
    assert ("kvpoll_exporter_lag_seconds",) not in found


@pytest.mark.parametrize("most", [0, 1, 3])
def test_owners_beyond_the_limit_are_one(most):
    owners = tuple(owner(f"o{number}", rooms=number, beat=1000.0 - number) for number in range(4))
    found = collected(Snapshot("prod", 1000.0, True, 0.0, owners=owners), most)
    named = {key[1] for key in found if key[0] == "kvpoll_owner_rooms"}
    assert named == {*(f"o{3 - number}" for number in range(most)), "other"}
    assert found["kvpoll_owner_rooms", "other"] == sum(range(4 - most))
    assert found["kvpoll_owner_heartbeat_age_seconds", "other"] == 3 - most


def test_lost_owner_leaves_after_five_minutes():
    owners = (lost("gone", 699.0), lost("just", 701.0), lost("some time", 0.0))
    found = collected(Snapshot("prod", 1000.0, True, 0.0, owners=owners))
    assert ("kvpoll_owner_rooms", "just") in found
    assert ("kvpoll_owner_rooms", "gone") not in found
    assert ("kvpoll_owner_rooms", "some time") not in found
    assert found["kvpoll_owner_heartbeat_age_seconds", "just"] == 299.0
    assert found["kvpoll_owners", "lost"] == 3


def test_name_that_was_taken_again_has_one_series():
    owners = (lost("a", 990.0), owner("a", rooms=4, incarnation=2))
    assert collected(Snapshot("prod", 1000.0, True, 0.0, owners=owners))["kvpoll_owner_rooms", "a"] == 4


@pytest.mark.parametrize(
    ("level", "state", "was_seen", "expected"),
    [
        (Level.WARNING, "absent", False, None),
        (Level.WARNING, "absent", True, 2),
        (Level.PROBLEM, "absent", False, 3),
        (Level.WARNING, "away", False, 2),
    ],
)
def test_namespace_that_is_yet_to_come_is_no_finding(level, state, was_seen, expected):
    """KVPollDoctor would fire. That the data of a namespace is gone is a problem, and stays."""
    findings = (*FINDINGS, Finding("settings", level, "namespace 'prod' not found"))
    settings = Settings("strict", 1, "none", 100) if was_seen else None
    found = collected(Snapshot("prod", 1000.0, False, math.inf), state=state, findings=findings, settings=settings)
    assert found.get(("kvpoll_doctor_check", "settings")) == expected
    assert found["kvpoll_doctor_check", "memory"] == 2


def test_doctor_levels_are_there_and_unknown_ones_absent():
    found = collected(Snapshot("prod", 1000.0, True, 0.0))
    assert found["kvpoll_doctor_check", "memory"] == 2
    assert ("kvpoll_doctor_check", "reach") not in found
