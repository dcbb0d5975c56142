"""The reasons of failures in the local copy: where they come from, and when they go."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll
from tests.support.internals import reasons_of
from tests.support.replicas import RankedRun, Run, replica_of

BOOT, MOVE, DONE, FAIL = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success, KVPoll.Failed


def text(*pairs):
    return [word.encode() for word in " ".join(pairs).split()]


@pytest.fixture
def replica():
    replica = replica_of()
    replica.start_resync("ns", b"1-0", 0)
    return replica


def read(replica, *entries):
    """Each entry with the next id; unless a room is absent in it, with a TTL."""
    entries = [entry if "absent" in entry else f"ttl_ms 9 {entry}" for entry in entries]
    at = replica.shards["ns"].position >> 64
    replica.read("ns", [(b"%d-0" % (at + n), fields) for n, fields in enumerate(map(text, entries), 1)], True, 0)


class TestReason:
    def test_reason_comes_with_the_failure(self, replica):
        read(replica, "1 Failed reason why 2 Failed", "3 Transferring")
        assert [replica.failure_reason(room) for room in (1, 2, 3, 4)] == ["why", None, None, None]

    def test_reason_recorded_before_the_failure_is_kept(self, replica):
        read(replica, "1 Transferring", "1 Transferring reason cause")
        assert replica.failure_reason(1) == "cause"
        read(replica, "1 Failed")
        assert replica.failure_reason(1) == "cause"

    def test_any_bytes_are_text(self, replica):
        replica.read("ns", [(b"2-0", [b"ttl_ms", b"9", b"1", b"Failed", b"reason", b"na\xefve"])], True, 0)
        assert replica.failure_reason(1) == "na\ufffdve"

    @pytest.mark.parametrize("entry", ["1 absent", "1 Bootstrapping", "1 Success", "1 Failed reason other"])
    def test_reason_goes_with_its_failure(self, replica, entry):
        read(replica, "1 Failed reason why", entry)
        assert replica.failure_reason(1) == ("other" if "other" in entry else None)
        assert len(reasons_of(replica.shards["ns"])) == ("other" in entry)

    def test_status_that_falls_is_of_a_new_room(self, replica):
        """The former one has expired, which no entry reports."""
        read(replica, "1 Transferring reason why", "1 Bootstrapping", "1 Failed")
        assert replica.failure_reason(1) is None

    def test_expired_room_takes_its_reason_along(self, replica):
        read(replica, "1 Failed reason why")
        replica.snapshot("ns", b"2-0", [1], [None, -2], 0)
        assert not reasons_of(replica.shards["ns"])

    def test_entry_older_than_absent_snapshot_leaves_no_reason(self, replica):
        replica.snapshot("ns", b"5-0", [1], [None, -2], 0)
        read(replica, "1 Failed reason why", "2 Success", "2 Success", "2 Success", "2 Success")
        assert replica.statuses == {2: DONE}
        assert not reasons_of(replica.shards["ns"])

    def test_entry_older_than_an_own_write_gives_its_reason(self, replica):
        replica.snapshot("ns", b"5-0", [1], [b"Failed", 9], 0)
        read(replica, "1 Failed reason why")
        assert replica.failure_reason(1) == "why"

    def test_room_that_left_failed_ahead_of_the_feed_shows_none(self, replica):
        read(replica, "1 Failed reason why")
        replica.snapshot("ns", b"5-0", [1], [b"Bootstrapping", 9], 0)
        assert replica.failure_reason(1) is None

    def test_resync_drops_reasons(self, replica):
        read(replica, "1 Failed reason why")
        replica.start_resync("ns", b"7-0", 0)
        replica.snapshot("ns", b"7-0", [1], [b"Failed", 9], 0)
        assert replica.failure_reason(1) is None

    def test_irrelevant_room_has_none(self):
        replica = replica_of(lambda room: room == 1)
        replica.start_resync("ns", b"1-0", 0)
        read(replica, "1 Failed reason why 2 Failed reason why")
        assert [*reasons_of(replica.shards["ns"])] == [1]

    def test_wait_keeps_none_after_it_ended(self):
        run = Run()
        run.replica = replica_of(is_relevant=None)
        run.start()
        waiter = run.replica.enter(1, frozenset({FAIL}), lambda: None, armed=False)
        run.server.write({1: FAIL, 2: FAIL})
        run.replica.read("ns", run.server.feed, True, 0)
        assert [*reasons_of(run.replica.shards["ns"])] == [1]
        run.replica.leave(waiter)
        assert not reasons_of(run.replica.shards["ns"])


class TestReasonOfRanks:
    @pytest.fixture
    def run(self):
        run = RankedRun()
        run.start()
        run.mark_synced()
        run.update(0, [0], BOOT)
        run.update(1, [0], BOOT)
        run.read(9)
        return run

    def test_failure_of_another_rank_has_a_reason(self, run):
        run.others(1, "record_failure", [0])
        run.update(1, [0], FAIL)
        run.read(9)
        assert run.replica.failure_reason(0) == "why"

    def test_rank_that_has_cleared_sees_none(self, run):
        run.others(0, "clear", [0])
        run.others(1, "abort", [0])
        run.read(9)
        assert run.replica.failure_reason(0) is None

    def test_new_life_of_a_room_has_none_of_the_former(self, run):
        run.others(1, "record_failure", [0])
        run.server.expire(0)
        run.update(1, [0], DONE)
        run.update(0, [0], MOVE)
        run.read(9)
        run.read_uncertain()
        assert run.replica.failure_reason(0) is None
