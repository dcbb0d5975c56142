"""Statistics on servers, blocking and asyncio: what they count, and what they survive."""

from __future__ import annotations

import time

import pytest

from redis_kvpoll import (
    InvalidInputError,
    KVPoll,
    NamespaceMismatchError,
    RoomBusyError,
    StoreClosedError,
    WorldSizeMismatchError,
)
from redis_kvpoll.protocol import acl
from redis_kvpoll.statistics.model import FAILURES, REFUSED, Histogram
from tests.support import pace, real
from tests.support.fuzzing import NoTruth
from tests.support.statistics import counts, settled, synced

BOOT, WAITING, MOVE, DONE = KVPoll.Bootstrapping, KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Success
FAILED = KVPoll.Failed
NO_DURATIONS = [-1, "x", False, 0j, NoTruth()]


@pytest.fixture
def store(side, server):
    return created(side, server)


def created(side, server, **options):
    """A store whose namespace exists."""
    store = side.over(server, **options)
    store.counts()
    return store


def test_rooms_that_were_there_are_counted(store):
    store.update_many({room: BOOT if room < 600 else DONE for room in range(1000)})
    with store.statistics() as statistics:
        snapshot = statistics.wait_synced(pace.seconds(30))
        assert counts(statistics) == {BOOT: 600, DONE: 400}
        assert (snapshot.live, snapshot.total, snapshot.walked, snapshot.error) == (600, 1000, None, None)
        assert snapshot.oldest[BOOT] is not None
        assert snapshot.oldest[MOVE] is None
        assert snapshot.transitions == {}


def test_changes_are_counted_with_their_durations(store, client):
    with store.statistics() as statistics:
        synced(statistics)
        handle = store.open(1, request="rid")
        for status in (WAITING, MOVE, DONE):
            handle.update(status)
        store.open(2)
        store.abort(2, "Aborted by hand.")
        store.clear(2)
        snapshot = settled(statistics, {DONE: 1})
        entries = client.xlen("kvpoll:{default}:feed")
        real.until(lambda: [(f.shard, f.entries) for f in statistics.snapshot().feeds] == [("default", entries)], "fed")
    absent, cleared = ("absent", "Bootstrapping"), ("Failed", "cleared")
    chain = [("Bootstrapping", "WaitingForInput"), ("WaitingForInput", "Transferring"), ("Transferring", "Success")]
    expected = {absent: 2, ("Bootstrapping", "Failed"): 1, cleared: 1, **dict.fromkeys(chain, 1)}
    assert snapshot.transitions == expected
    assert snapshot.failures == {**dict.fromkeys(FAILURES, 0), "aborted": 1}
    assert [(each.text, each.kind, each.count) for each in snapshot.reasons] == [("Aborted by hand.", "aborted", 1)]
    assert {status: each.total for status, each in snapshot.status_durations.items()} == {BOOT: 2, WAITING: 1, MOVE: 1}
    assert {status: each.total for status, each in snapshot.room_durations.items()} == {DONE: 1, FAILED: 1}


def test_ttl_of_a_century_hinders_no_other_room(store, client):
    """What was written into keys by hand harms no other room."""
    store.update_many({1: MOVE, 2: BOOT})
    client.pexpire("kvpoll:{default}:room:1", 3_000_000_000_000)
    with store.statistics() as statistics:
        settled(statistics, {BOOT: 1, MOVE: 1})
        store.update_status(2, DONE)
        store.update_status(1, DONE)
        settled(statistics, {DONE: 2})


def test_plain_failure_without_reason_is_counted_later(store):
    with store.statistics() as statistics:
        synced(statistics)
        store.update_many({1: BOOT, 2: BOOT, 3: BOOT})
        store.update_many({1: FAILED, 2: FAILED, 3: FAILED})
        store.record_failure(1, "Request 1 timed out after 300.0s")
        store.clear(2)
        real.until(lambda: sum(statistics.snapshot().failures.values()) == 3, "counted")
        assert statistics.snapshot().failures == {**dict.fromkeys(FAILURES, 0), "timeout": 1, "none": 2}


def test_lookback_gives_rates_at_once(store, client):
    store.update_many(dict.fromkeys(range(30), BOOT))
    at = store.history(0)[0].at
    real.until(lambda: client.time()[0] > at, "the next second has begun")
    with store.statistics(lookback=60.0) as statistics:
        snapshot = synced(statistics)
        assert snapshot.transitions == {("absent", "Bootstrapping"): 30}
        assert snapshot.rates.opened == pytest.approx(30 / snapshot.rates.seconds)
        assert sum(second.opened for second in statistics.seconds(60)) == 30
        store.update_many(dict.fromkeys(range(30), DONE))
        assert settled(statistics, {DONE: 30}).status_durations[BOOT].total == 30


def test_rates_begin_where_a_trimmed_feed_begins(side, server, client):
    """Of what came before it nothing is known: it must not count as a time in which nothing happened."""
    store = created(side, server, feed_length=100)
    for room in range(400):
        store.update_status(room, BOOT)
    (first, _), *_ = client.xrange("kvpoll:{default}:feed", count=1)
    first_second = int(first.partition("-")[0]) // 1000
    real.until(lambda: client.time()[0] > first_second + 1, "some seconds have passed")
    with store.statistics(lookback=60.0) as statistics:
        snapshot = synced(statistics)
        assert 0 < snapshot.transitions["absent", "Bootstrapping"] < 400
        assert 0 < snapshot.rates.seconds <= snapshot.at - first_second


def test_stuck_rooms_are_listed_oldest_first(store):
    store.update_status(1, BOOT)
    store.update_status(2, MOVE)
    store.update_status(3, DONE)
    with store.statistics(stuck_after=0.001) as statistics:
        synced(statistics)
        real.until(lambda: sum(statistics.snapshot().stuck.values()) == 2, "stuck")
        assert [(row.room, row.status) for row in statistics.rooms()] == [(1, BOOT), (2, MOVE)]
        assert [row.room for row in statistics.rooms([MOVE, DONE])] == [2, 3]
        assert [row.room for row in statistics.rooms([BOOT, BOOT])] == [1]
        assert statistics.rooms(longer_than=1000.0) == []
        assert [row.room for row in statistics.rooms(limit=1)] == [1]


def test_rooms_are_counted_as_they_are_listed(store):
    store.update_many({room: (BOOT, MOVE, DONE)[room % 3] for room in range(600)})
    with store.statistics() as statistics:
        settled(statistics, {BOOT: 200, MOVE: 200, DONE: 200})
        assert (statistics.count(), statistics.count([MOVE, DONE, MOVE]), statistics.count([])) == (400, 400, 0)
        real.until(lambda: statistics.count(KVPoll, longer_than=1.0) == 600, "a second has passed")
        for statuses in ([BOOT], [MOVE, DONE], list(KVPoll)):
            assert statistics.count(statuses, longer_than=1.0) == len(
                statistics.rooms(statuses, longer_than=1.0, limit=1000)
            )
        assert statistics.count(KVPoll, longer_than=1000.0) == 0


def test_count_of_what_is_no_status_is_refused(store):
    with store.statistics() as statistics:
        for statuses, longer_than in (([7], 0.0), (5, 0.0), *(([BOOT], bad) for bad in NO_DURATIONS)):
            with pytest.raises(InvalidInputError, match=r"^count: "):
                statistics.count(statuses, longer_than=longer_than)


def test_latest_rooms_at_a_status_are_newest_first(store):
    for room in (3, 1, 2):
        store.update_status(room, BOOT)
        store.abort(room, "why")
        time.sleep(0.003)  # the table's times are milliseconds
    with store.statistics() as statistics:
        settled(statistics, {FAILED: 3})
        assert [row.room for row in statistics.latest(FAILED)] == [2, 1, 3]
        assert [row.room for row in statistics.latest(FAILED, limit=1)] == [2]
        assert statistics.latest(BOOT) == []


def test_rooms_of_an_owner_are_known(store):
    with store.statistics() as statistics:
        with store.lease("prefill/10.0.0.1:8998"):
            store.open(1)
            store.open(2).update(DONE)
            settled(statistics, {BOOT: 1, DONE: 1})
            real.until(lambda: [o.rooms for o in statistics.snapshot().owners] == [1], "owned")
            (owner,) = statistics.snapshot().owners
            assert (owner.name, owner.state) == ("prefill/10.0.0.1:8998", "alive")
            assert [row.room for row in statistics.rooms([BOOT, DONE], owner=owner.name)] == [1, 2]
        snapshot = settled(statistics, {FAILED: 1, DONE: 1})
        assert snapshot.failures["owner_left"] == 1


def test_unknown_owner_has_no_rooms_and_takes_no_place(store, monkeypatch):
    """Else as many questions as the table of names has places would hide the owners that come later."""
    monkeypatch.setattr("redis_kvpoll.statistics.owner_names.MOST", 3)
    store.update_status(9, MOVE)
    with store.statistics() as statistics:
        settled(statistics, {MOVE: 1})
        for number in range(4):
            assert statistics.rooms(owner=f"nobody-{number}") == []
        with store.lease("prefill-0"):
            store.open(1)
            settled(statistics, {MOVE: 1, BOOT: 1})
            assert [(row.room, row.owner) for row in statistics.rooms(owner="prefill-0")] == [(1, "prefill-0")]


def test_expiry_is_counted(side, server):
    store = created(side, server, ttl=pace.seconds(1.0), terminal_ttl=pace.seconds(0.5))
    with store.statistics() as statistics:
        synced(statistics)
        store.update_many({1: BOOT, 2: DONE})
        real.until(
            lambda: ("Bootstrapping", "expired") in statistics.snapshot().transitions, "expired", pace.seconds(20)
        )
        ends = {(BOOT.name, "expired"): 1, (DONE.name, "expired"): 1}
        begins = {("absent", BOOT.name): 1, ("absent", DONE.name): 1}
        assert settled(statistics, {}).transitions == begins | ends


def test_refused_writes_are_counted_by_outcome(side, server, client):
    store, ranked = side.over(server), side.over(server, rank=0, world_size=2)
    handle = store.open(1, request="one")
    store.clear(1)
    store.open(1, request="two")
    ranked.update_status(2, BOOT)
    assert not client.exists("kvpoll:{default}:refused")
    store.abort(9, "late")
    store.update_status(9, FAILED)
    handle.update(DONE)
    handle.clear()
    for call in (lambda: store.open(1, request="three"), lambda: store.update_status(2, DONE)):
        with pytest.raises((RoomBusyError, WorldSizeMismatchError)):
            call()
    expected = {**dict.fromkeys(REFUSED, 0), "skipped": 2, "stale": 2, "busy": 1, "world_size": 1}
    assert store.get(1) is BOOT
    with store.statistics() as statistics:
        snapshot = synced(statistics)
        assert (snapshot.refused, sum(snapshot.refusals_seen.values())) == (expected, 0)
        store.abort(9, "late")
        real.until(lambda: statistics.snapshot().refused["skipped"] == 3, "counted")
        assert statistics.snapshot().refusals_seen["skipped"] == 1
        client.delete("kvpoll:{default}:refused")  # as after a restart
        client.hset("kvpoll:{default}:refused", mapping={"skipped": 1, "since": 1})
        client.expire("kvpoll:{default}:refused", 1000)
        real.until(lambda: statistics.snapshot().refused["skipped"] == 1, "counted anew")
        assert statistics.snapshot().refusals_seen["skipped"] == 2


def test_write_under_a_lost_lease_is_counted(side, server, client):
    store = side.over(server)
    with store.lease("p0", ttl=600.0):  # no heartbeat comes before the write
        handle = store.open(1)
        client.delete("kvpoll:{default}:leases")
        with pytest.raises(Exception, match="lease"):
            handle.update(DONE)
        assert client.hget("kvpoll:{default}:refused", "lease") == "1"


def test_no_feed_is_scanned_once_a_minute(side, server):
    store = side.over(server, feed_length=0, namespace="quiet")
    store.update_status(1, BOOT)
    with store.statistics() as statistics:
        snapshot = synced(statistics)
        assert (snapshot.has_feed, counts(statistics)) == (False, {BOOT: 1})
        assert (snapshot.transitions, snapshot.feeds, snapshot.rates.seconds) == ({}, (), 0)


@pytest.mark.parametrize("shards", [2])
def test_every_shard_is_counted(side, server, shards):
    store = side.over(server, namespace="spread", shards=shards)
    store.update_many(dict.fromkeys(range(100), BOOT))
    with store.statistics() as statistics:
        settled(statistics, {BOOT: 100})
        store.update_many(dict.fromkeys(range(100), DONE))
        assert len(settled(statistics, {DONE: 100}).feeds) == shards


def test_namespace_may_come_later(side, server):
    """Nobody creates it by looking at it."""
    looks, store = side.over(server, namespace="later", read_only=True), side.over(server, namespace="later", shards=2)
    with looks.statistics() as statistics:
        real.until(lambda: statistics.snapshot().error is not None, "said")
        assert "does not exist yet" in statistics.snapshot().error
        assert looks.settings() is None
        store.update_status(1, BOOT)
        assert settled(statistics, {BOOT: 1}).error is None


def test_looking_needs_no_right_to_write(side, url, server):
    if server.kind != "valkey":
        pytest.skip("one server is enough")
    store = side.over(server)
    store.update_status(1, BOOT)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "looks", "on", ">pw", *acl.rule(["default"], read_only=True).split())
        try:
            looks = side.open(url.replace("unix://", "unix://looks:pw@"), read_only=True)
            with looks.statistics() as statistics:
                snapshot = settled(statistics, {BOOT: 1})
                assert len(snapshot.feeds) == 1
                assert not store.abort(7, "late").changed
                real.until(lambda: statistics.snapshot().refused["skipped"] == 1, "counted")
        finally:
            client.execute_command("ACL", "DELUSER", "looks")


def test_other_settings_are_an_error(side, server):
    side.over(server, shards=2).update_status(1, BOOT)
    with side.over(server, shards=3).statistics() as statistics:
        with pytest.raises(NamespaceMismatchError):
            statistics.wait_synced(pace.seconds(10))
        assert "shards=2" in statistics.snapshot().error


def test_statistics_are_used_in_a_with_statement(store):
    statistics = store.statistics()
    with pytest.raises(StoreClosedError, match="not open"):
        statistics.snapshot()
    with statistics:
        statistics.snapshot()
    with pytest.raises(StoreClosedError, match="closed"):
        statistics.snapshot()


@pytest.mark.parametrize(
    "options",
    [
        *({"stuck_after": 0}, {"stuck_after": "1"}, {"share": 0}, {"share": 2}, {"share": "all"}),
        *({"lookback": bad} for bad in NO_DURATIONS),
    ],
)
def test_wrong_options_are_refused(store, options):
    with pytest.raises(InvalidInputError, match="statistics: "):
        store.statistics(**options)


@pytest.mark.parametrize(
    "options",
    [
        *({"statuses": 5}, {"statuses": [9]}, {"owner": []}, {"limit": -1}),
        *({"longer_than": bad} for bad in NO_DURATIONS),
    ],
)
def test_rooms_of_no_status_or_number_are_refused(store, options):
    with store.statistics() as statistics, pytest.raises(InvalidInputError, match=r"^rooms: "):
        statistics.rooms(**options)


def test_error_of_each_read_names_it(store):
    with store.statistics() as statistics:
        for call, name in [(lambda: statistics.latest(9), "latest"), (lambda: statistics.seconds("x"), "seconds")]:
            with pytest.raises(InvalidInputError, match=f"^{name}: "):
                call()


def test_quantile_is_between_the_bounds_of_its_bucket():
    counts = [0] * 20
    counts[3], counts[-1] = 99, 1
    histogram = Histogram(tuple(counts), 5.0)
    assert histogram.total == 100
    assert 0.005 <= histogram.quantile(0.5) <= 0.01
    assert histogram.quantile(1.0) == 300.0
    assert Histogram().quantile(0.5) is None
    assert Histogram((*tuple(counts[:-1]), 0), 0.7, 0.007).quantile(0.99) == 0.007
    assert histogram.since(histogram).total == 0
