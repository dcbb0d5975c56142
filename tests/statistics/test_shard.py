"""What each fact about a room changes: entries of the feed and reads, without a server."""

from __future__ import annotations

from collections import Counter

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol.refused_writes import RefusedWrites
from redis_kvpoll.statistics.owner_names import OwnerNames
from redis_kvpoll.statistics.shard import ShardStatistics
from redis_kvpoll.statistics.totals import Totals

NOW = 1_700_000_000_000
BOOT, MOVE, DONE, FAILED = "Bootstrapping", "Transferring", "Success", "Failed"


class Shard(ShardStatistics):
    """With shorter ways to say facts."""

    def __init__(self):
        self.totals = Totals()
        super().__init__(self.totals, OwnerNames(), Counter())
        self.begin_walk()
        self.end_walk()

    def tell(self, at, room, status, *more, ttl_ms=900_000):
        words = ["ttl_ms", ttl_ms, room, status, *more] if status != "absent" else [room, status]
        self.entry(b"%d-0" % (NOW + at), [str(word).encode() for word in words])

    def found(self, at, room, status, left_ms=900_000, since=0):
        name = status and status.encode()
        self.read([room], [name, left_ms, b"%d-0" % (NOW + since), b"%d" % (NOW + since), None], NOW + at)


@pytest.fixture
def shard():
    return Shard()


def test_room_that_was_there_counts_no_transition(shard):
    shard.begin_walk()
    shard.tell(0, 1, MOVE)
    shard.found(10, 2, BOOT)
    shard.end_walk()
    assert shard.rooms.counts == [0, 1, 0, 1, 0]
    assert shard.totals.transitions() == {}


def test_room_of_before_a_gap_counts_no_transition(shard):
    """Its status may have changed meanwhile."""
    shard.tell(0, 1, BOOT, "first", "")
    shard.begin_walk()
    shard.tell(10, 1, MOVE)
    assert shard.totals.transitions() == {("absent", BOOT): 1}


def test_walk_fills_in_what_an_entry_did_not_say(shard):
    """The room changed while the walk had not come to it."""
    shard.begin_walk()
    shard.tell(10, 1, MOVE)
    shard.read([1], [MOVE.encode(), 900_000, b"%d-0" % (NOW - 500), b"%d" % (NOW + 10), b"p0"], NOW + 20)
    shard.end_walk()
    record = shard.rooms.get(1)
    assert (record.since_ms, record.opened_ms, record.owner) == (NOW + 10, NOW - 500, 1)


def test_touch_before_the_walk_is_no_change_of_status(shard):
    """A lease touches its rooms: one that is stuck for longer than the feed was read back is stuck since its change."""
    shard.begin_walk()
    shard.tell(10, 1, MOVE)
    shard.read([1], [MOVE.encode(), 900_000, b"%d-0" % (NOW - 9000), b"%d" % (NOW - 7000), None], NOW + 20)
    shard.end_walk()
    record = shard.rooms.get(1)
    assert (record.since_ms, record.opened_ms) == (NOW - 7000, NOW - 9000)
    assert shard.rooms.stuck(KVPoll.Transferring, NOW - 5000) == 1


def test_change_that_was_seen_is_not_dated_back_by_a_read(shard):
    shard.found(0, 1, BOOT, since=-500)
    shard.tell(10, 1, MOVE)
    shard.found(20, 1, MOVE, since=-500)
    assert shard.rooms.get(1).since_ms == NOW + 10


def test_change_counts_once_its_former_status_is_known(shard):
    shard.begin_walk()
    shard.found(0, 1, BOOT)
    shard.end_walk()
    shard.tell(10, 1, MOVE)
    shard.tell(20, 1, DONE)
    assert shard.totals.transitions() == {(BOOT, MOVE): 1, (MOVE, DONE): 1}


def test_duration_counts_if_both_ends_were_seen(shard):
    shard.begin_walk()
    shard.found(0, 1, BOOT)
    shard.end_walk()
    shard.tell(10, 1, MOVE)
    shard.tell(30, 1, DONE)
    durations = {status: each.histogram() for status, each in shard.totals.status_durations.items()}
    assert durations[KVPoll.Bootstrapping].total == 0
    assert (durations[KVPoll.Transferring].total, durations[KVPoll.Transferring].sum) == (1, 0.02)
    assert shard.totals.room_durations[KVPoll.Success].histogram().total == 0


def test_opening_to_end_counts_as_a_rooms_duration(shard):
    shard.tell(0, 1, BOOT, "first", 7, "owner", "p0", "request", "rid")
    shard.tell(500, 1, DONE)
    found = shard.totals.room_durations[KVPoll.Success].histogram()
    assert (found.total, found.sum) == (1, 0.5)


@pytest.mark.parametrize(("at", "end"), [(500, "cleared"), (1000, "expired"), (1500, "expired")])
def test_room_opened_anew_has_ended_before(shard, at, end):
    shard.tell(0, 1, FAILED, "first", "", ttl_ms=1000)
    shard.tell(at, 1, BOOT, "first", "")
    assert shard.totals.transitions() == {("absent", FAILED): 1, (FAILED, end): 1, ("absent", BOOT): 1}


def test_room_that_is_gone_when_due_has_expired(shard):
    shard.tell(0, 1, BOOT, "first", "", ttl_ms=1000)
    assert shard.rooms.due(NOW + 3000, 10) == [1]
    shard.found(3000, 1, None, left_ms=-2)
    assert shard.totals.transitions() == {("absent", BOOT): 1, (BOOT, "expired"): 1}
    assert [second.at for second in shard.totals.seconds(NOW + 5000, 10) if second.expired] == [NOW // 1000 + 1]


def test_touched_room_that_was_due_lives_on(shard):
    shard.tell(0, 1, BOOT, "first", "", ttl_ms=1000)
    assert shard.rooms.due(NOW + 3000, 10) == [1]
    shard.found(3000, 1, BOOT, left_ms=5000)
    assert shard.totals.transitions() == {("absent", BOOT): 1}
    assert shard.rooms.due(NOW + 7000, 10) == []
    assert shard.rooms.due(NOW + 10_000, 10) == [1]


@pytest.mark.parametrize(
    ("then", "kind"),
    [
        (lambda shard: shard.tell(100, 1, FAILED, "reason", "timed out"), "timeout"),
        (lambda shard: shard.tell(100, 1, "absent"), "none"),
        (lambda shard: shard.tell(100, 1, BOOT, "first", ""), "none"),
        (lambda shard: shard.settle_failures(NOW + 2100), "none"),
        (lambda shard: shard.begin_walk(), "none"),
    ],
    ids=["reason", "clear", "opened anew", "2 s", "walk"],
)
def test_failure_without_a_reason_waits_for_it(shard, then, kind):
    shard.tell(0, 1, BOOT, "first", "")
    shard.tell(50, 1, FAILED)
    shard.settle_failures(NOW + 1000)
    assert sum(shard.totals.failures().values()) == 0
    then(shard)
    assert {kind: count for kind, count in shard.totals.failures().items() if count} == {kind: 1}


def test_failure_counts_by_its_first_reason(shard):
    shard.tell(0, 1, BOOT, "first", "")
    shard.tell(10, 1, FAILED, "reason", "owner p0 lost")
    shard.tell(20, 1, FAILED, "reason", "timed out")
    assert shard.totals.failures()["owner_lost"] == sum(shard.totals.failures().values()) == 1


def test_room_that_came_back_is_a_transition(shard):
    shard.tell(0, 1, BOOT, "first", "")
    shard.tell(10, 1, FAILED, "reason", "why")
    shard.tell(20, 1, DONE)
    assert shard.totals.transitions()[FAILED, DONE] == 1


def test_walk_drops_rooms_that_are_gone_without_counting_them(shard):
    shard.tell(0, 1, BOOT, "first", "")
    shard.begin_walk()
    shard.found(10, 2, MOVE)
    shard.end_walk()
    assert [room for room, _ in shard.rooms.all()] == [2]
    assert shard.totals.transitions() == {("absent", BOOT): 1}


def test_owner_longer_than_any_lease_is_none(shard):
    """It was written by hand; its text is not kept."""
    shard.tell(0, 1, BOOT, "first", "", "owner", "x" * 301)
    shard.tell(0, 2, BOOT, "first", "", "owner", "x" * 300)
    assert (shard.rooms.get(1).owner, shard.rooms.get(2).owner) == (0, 1)


class TestRefused:
    def test_count_that_begins_anew_goes_on(self):
        totals = Totals()
        for count, sum_ in ((50, 0), (60, 10), (5, 15), (5, 15), (0, 15), (1, 16)):
            totals.refused("ns", RefusedWrites({"skipped": count}), NOW)
            assert totals.refusals()["skipped"] == sum_

    def test_count_of_a_replica_that_lacks_some_goes_on(self):
        """A failover: the count falls by a little, and began when it did before. Then another one begins."""
        totals = Totals()
        for count, since, sum_ in (
            (1000, 1.0, 0),
            (990, 1.0, 0),
            (995, 1.0, 0),
            (1001, 1.0, 1),
            (3, 2.0, 4),
        ):
            totals.refused("ns", RefusedWrites({"skipped": count}, since), NOW)
            assert totals.refusals()["skipped"] == sum_

    def test_shards_add_up(self):
        totals = Totals()
        for counts in ({}, {"skipped": 3}), ({"skipped": 3}, {"skipped": 7}):
            for tag, count in zip(("ns/0", "ns/1"), counts, strict=True):
                totals.refused(tag, RefusedWrites(count), NOW)
        assert totals.refusals()["skipped"] == 7

    def test_rate_is_of_the_time_that_was_watched(self):
        """A server's counts have no times: what came before the first reading is in no second of the last minute."""
        totals = Totals()
        totals.begin(NOW - 300_000)
        rates = []
        for at, count in ((0, 500), (1000, 500), (2000, 510), (59_000, 510), (61_500, 510), (63_000, 510)):
            totals.refused("ns", RefusedWrites({"skipped": count}), NOW + at)
            found = totals.rates(NOW + at)
            rates.append((found.refused, found.refused_seconds, found.seconds))
        assert rates == [(None, 0, 60), (0, 1, 60), (5, 2, 60), (10 / 59, 59, 60), (10 / 60, 60, 60), (0, 60, 60)]

    def test_table_that_has_refused_nothing_has_a_rate_at_once(self):
        """The counts are kept for a week: without any, nothing was refused in the last minute."""
        totals = Totals()
        totals.begin(NOW - 300_000)
        totals.refused("ns", RefusedWrites(), NOW)
        assert (totals.rates(NOW).refused, totals.rates(NOW).refused_seconds) == (0, 60)
        totals.refused("ns", RefusedWrites({"stale": 6}), NOW + 1000)
        assert totals.rates(NOW + 1000).refused == 6 / 60


def test_rates_are_of_the_last_minute_or_since_the_beginning():
    totals = Totals()
    assert totals.rates(NOW).seconds == 0
    totals.begin(NOW)
    for second in range(10):
        totals.transition("absent", BOOT, NOW + second * 1000)
    assert (totals.rates(NOW + 10_000).seconds, totals.rates(NOW + 10_000).opened) == (10, 1.0)
    assert totals.rates(NOW + 65_000).opened == pytest.approx(5 / 60)


def test_reasons_are_kept_for_an_hour():
    totals = Totals()
    totals.failure("timed out after 3 s", NOW)
    totals.failure("timed out after 4 s", NOW + 1000)
    assert [(each.text, each.count) for each in totals.reasons(NOW + 2000)] == [("timed out after # s", 2)]
    totals.failure("why", NOW + 4_000_000)
    assert [(each.text, each.count) for each in totals.reasons(NOW + 4_000_000)] == [("why", 1)]


def test_restored_room_is_no_opening_and_keeps_its_age(shard):
    """A generation is the time of the opening in microseconds."""
    shard.tell(60_000, 1, BOOT, "first", NOW * 1000)
    shard.tell(60_000, 2, BOOT, "first", (NOW + 60_000) * 1000)
    assert shard.rooms.get(1).opened_ms == NOW
    assert shard.rooms.get(2).opened_ms == NOW + 60_000
    assert shard.totals.transitions() == {("absent", BOOT): 1}


def test_restored_room_has_its_status_since_its_last_write(shard):
    shard.tell(60_000, 1, BOOT, "first", NOW * 1000)
    shard.found(60_010, 1, BOOT, since=5000)
    assert shard.rooms.get(1).since_ms == NOW + 5000


def test_clock_that_went_back_makes_no_room_restored(shard):
    """Entries keep the time of the feed's last one, and generations go up by one, until the clock has caught up."""
    shard.tell(0, 1, BOOT, "first", NOW * 1000)
    shard.tell(60_000, 1, MOVE)
    for room in (2, 3):
        shard.tell(60_000, room, BOOT, "first", NOW * 1000 + room - 1)
    assert shard.totals.transitions() == {("absent", BOOT): 3, (BOOT, MOVE): 1}
    assert shard.rooms.get(3).opened_ms == NOW + 60_000


@pytest.mark.parametrize("generation", ["9" * 5000, "1" * 15 + "\N{ARABIC-INDIC DIGIT ONE}", "x"])
def test_generation_that_is_no_time_counts_as_opened(shard, generation):
    """It was written by hand."""
    shard.tell(0, 1, BOOT, "first", generation)
    assert shard.totals.transitions() == {("absent", BOOT): 1}
