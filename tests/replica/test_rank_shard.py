"""The replica of one of three ranks, without I/O: it ends with this rank's view, whatever the others do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll import KVPoll
from tests.support.fuzzing import examples
from tests.support.internals import ahead_of, cleared_ranks_of, ids_of, own_writes_of, read_positions_of, reasons_of
from tests.support.replicas import RankedRun, replica_of

BOOT, INPUT, MOVE, DONE, FAIL = (KVPoll(number) for number in (1, 2, 3, 4, 0))
SOME = st.lists(st.sampled_from(range(3)), min_size=1, max_size=3, unique=True)
STATUSES = st.sampled_from((*KVPoll, *KVPoll, None, "abort", "reopen"))
STEPS = st.lists(
    st.one_of(
        *[st.tuples(st.just("update"), st.sampled_from((0, 1, 1, 2)), SOME, st.sampled_from(KVPoll))] * 4,
        *[
            st.tuples(
                st.just("others"),
                st.sampled_from((0, 1, 2, 3)),
                st.sampled_from(("abort", "clear", "clear", "touch", "record_failure")),
                SOME,
            )
        ]
        * 2,
        st.tuples(st.just("others"), st.integers(0, 2), st.sampled_from(("reopen", "replay_cleared")), SOME),
        st.tuples(st.just("others"), st.integers(0, 2), st.just("replay"), SOME, st.sampled_from(KVPoll)),
        st.tuples(st.just("expire"), SOME),
        *[st.tuples(st.just("own"), SOME, STATUSES)] * 3,
        st.tuples(st.just("deliver"), st.integers(0, 5)),
        *[st.tuples(st.just("read"), st.integers(1, 3))] * 2,
        st.tuples(st.just("read_uncertain")),
        st.tuples(st.just("read_snapshot"), st.sets(st.sampled_from(range(3)))),
        st.tuples(st.just("late_snapshot"), st.sets(st.sampled_from(range(3)), min_size=1)),
        st.tuples(st.just("mark_synced")),
        st.tuples(st.just("another_server"), st.integers(0, 3)),
        st.tuples(st.just("end_session")),
    ),
    max_size=30,
)


def ended(run):
    """Deliver all replies and read the whole feed."""
    while run.replies:
        run.deliver(0)
    if not run.shard.synced:
        run.mark_synced()
    run.read(1000)
    run.read_uncertain()
    run.read_snapshot(range(3))  # finds expired rooms
    run.reported += run.replica.take_changes()
    return run


@given(STEPS)
@examples(600)
def test_any_interleaving_ends_with_the_view_of_the_rank(steps):
    run = RankedRun()
    run.server.act(1, "update_status", [0, 1], MOVE)
    run.server.act(0, "update_status", [0], INPUT)
    run.start()
    run.mark_synced()
    run.replica.take_changes()
    reported_before = dict(run.replica.statuses)
    for name, *arguments in steps:
        getattr(run, name)(*arguments)
        run.check()
    ended(run).check()
    assert run.replica.statuses == run.server.rooms
    table = run.server.table.rooms
    assert run.replica.ranks == {room: {**there.live, **there.cleared} for room, there in table.items()}
    assert all(list(ranks) == sorted(ranks) for ranks in run.replica.ranks.values())
    assert run.replica.consensus == {room: there.status for room, there in table.items()}
    assert cleared_ranks_of(run.shard) == {room: set(there.cleared) for room, there in table.items() if there.cleared}
    assert run.shown_reasons() == run.reasons()
    assert reasons_of(run.shard).keys() <= table.keys()
    assert ids_of(run.shard).keys() == table.keys(), "only live rooms take memory"
    assert own_writes_of(run.shard).keys() <= table.keys()
    assert not ahead_of(run.shard)
    assert not read_positions_of(run.shard)
    assert not run.shard.uncertain
    assert len(run.shard.expiry) == len(table)
    last = {**reported_before, **dict(run.reported)}
    assert {room: status for room, status in last.items() if status is not None} == run.server.rooms


@given(STEPS, st.sets(st.sampled_from(range(3))))
@examples(100)
def test_expired_rooms_go_when_due_ones_are_read(steps, gone):
    run = RankedRun()
    run.start()
    run.mark_synced()
    for name, *arguments in steps:
        getattr(run, name)(*arguments)
    ended(run)
    for room in gone:
        run.server.expire(room)
    run.read_snapshot(run.replica.due("ns", 1e6, 100))
    assert run.replica.statuses == run.server.rooms


@pytest.fixture
def run():
    run = RankedRun()
    run.start()
    run.mark_synced()
    return run


class TestSingleChanges:
    def test_change_of_other_rank_is_not_reported(self, run):
        run.update(1, [0], DONE)
        run.read(9)
        assert run.replica.statuses == {}
        run.update(0, [0], BOOT)
        run.update(1, [0], DONE)
        run.others(1, "clear", [0])
        run.read(9)
        assert run.replica.statuses == {0: BOOT}
        assert run.reported == [(0, BOOT)]
        assert not run.replica.uncertain("ns")

    def test_failure_of_other_rank_is_seen_at_once(self, run):
        run.update(0, [0, 1], MOVE)
        run.update(1, [0], MOVE)
        run.update(1, [0], FAIL)
        run.others(3, "abort", [1])
        run.read(9)
        assert run.replica.statuses == {0: FAIL, 1: FAIL}
        assert not run.replica.uncertain("ns")

    def test_failed_room_is_absent_when_this_rank_cleared_it(self, run):
        run.update(0, [0], MOVE)
        run.update(1, [0, 1], MOVE)
        run.others(0, "clear", [0])
        run.read(9)
        run.others(1, "abort", [0, 1])
        run.read(9)
        assert run.replica.statuses == {1: FAIL}, "this rank has cleared room 0"
        assert run.replica.ranks == {0: {0: MOVE, 1: FAIL}, 1: {1: FAIL}}
        assert not run.replica.uncertain("ns")

    def test_own_status_returns_when_other_leaves_failed(self, run):
        run.update(0, [0], INPUT)
        run.update(1, [0], BOOT)
        run.update(1, [0], FAIL)
        run.read(9)
        run.update(1, [0], MOVE)
        run.read(9)
        assert run.replica.statuses == {0: INPUT}
        assert run.reported == [(0, INPUT), (0, FAIL), (0, INPUT)]
        assert not run.replica.uncertain("ns")

    def test_cleared_failed_room_needs_no_read(self, run):
        for rank in range(3):
            run.update(rank, [0], MOVE)
        run.others(0, "clear", [0])
        run.others(2, "abort", [0])
        run.others(1, "clear", [0])
        run.read(9)
        assert run.replica.uncertain("ns") == []
        assert run.replica.ranks == {0: {0: MOVE, 1: FAIL, 2: FAIL}}

    def test_own_progress_while_other_failed_stays_failed(self, run):
        run.update(1, [0], BOOT)
        run.update(0, [0], BOOT)
        run.update(1, [0], FAIL)
        run.update(0, [0], MOVE)
        run.read(9)
        assert run.server.table.rooms[0].live == {0: MOVE, 1: FAIL}
        assert run.replica.statuses == {0: FAIL}

    def test_resync_forgets_uncertain_rooms(self, run):
        run.update(1, [0], BOOT)
        run.others(1, "replay_cleared", [0])
        run.read(9)
        assert run.replica.uncertain("ns") == [0], "the feed does not have its last status"
        run.another_server(0)
        assert run.replica.uncertain("ns") == []

    def test_entries_of_others_do_not_change_own_status(self, run):
        run.update(0, [0], BOOT)
        run.read(9)
        run.update(1, [0], MOVE)
        run.update(0, [0], INPUT)
        run.update(2, [0], BOOT)
        run.own([0], DONE)
        run.deliver(0)
        run.read(9)
        assert run.reported == [(0, BOOT), (0, INPUT), (0, DONE)]

    def test_own_clear_removes_room(self, run):
        run.update(0, [0], DONE)
        run.update(1, [0], DONE)
        run.others(0, "clear", [0])
        run.read(9)
        assert run.reported == [(0, DONE), (0, None)]

    def test_touch_by_other_rank_extends_expiry(self, run):
        run.update(0, [0], MOVE)
        run.read(9)
        run.shard.expiry.set(0, 1)
        run.others(1, "touch", [0])
        run.read(9)
        assert run.replica.due("ns", 100, 9) == []

    def test_replica_without_rank_sees_consensus(self):
        replica = replica_of()
        replica.start_resync("ns", b"1-0", 0)
        replica.read("ns", [(b"2-0", [b"ttl_ms", b"9", b"1", b"Bootstrapping", b"rank:0", b"Success"])], True, 0)
        fields = [b"1", b"Bootstrapping", b"rank:0", b"absent", b"ttl_ms", b"9", b"2", b"Failed"]
        replica.read("ns", [(b"3-0", fields)], True, 0)
        assert replica.statuses == {1: BOOT, 2: FAIL}


class TestRanksOfRoom:
    def ranks(self, run, room=0):
        run.check()
        return run.replica.ranks.get(room)

    def test_own_write_is_shown_until_feed_reaches_it(self, run):
        for rank in (0, 1):
            run.update(rank, [0], BOOT)
        run.read(9)
        run.update(1, [0], INPUT)
        run.own([0], DONE)
        run.deliver(0)
        run.update(1, [0], MOVE)
        assert self.ranks(run) == {0: DONE, 1: BOOT}
        for expected in (INPUT, INPUT, MOVE):
            run.read(1)
            assert self.ranks(run) == {0: DONE, 1: expected}

    def test_own_first_write_waits_for_feed_in_room_of_others(self, run):
        run.update(1, [0], MOVE)
        run.read(9)
        run.own([0, 1], BOOT)
        run.deliver(0)
        assert run.replica.statuses == {0: BOOT, 1: BOOT}
        assert (self.ranks(run), self.ranks(run, 1)) == ({1: MOVE}, {0: BOOT})
        run.read(9)
        assert self.ranks(run) == {0: BOOT, 1: MOVE}

    def test_own_reopening_drops_former_ranks(self, run):
        for rank in (0, 1):
            run.update(rank, [0], MOVE)
        run.read(9)
        run.others(1, "abort", [0])
        run.own([0], "reopen")
        run.deliver(0)
        assert self.ranks(run) == {0: BOOT}
        run.update(1, [0], BOOT)
        for expected in ({0: BOOT}, {0: BOOT}, {0: BOOT, 1: BOOT}):
            run.read(1)
            assert self.ranks(run) == expected

    def test_others_appear_once_feed_reaches_own_creation(self, run):
        run.own([0], BOOT)
        run.update(1, [0], MOVE)
        run.own([0], INPUT)
        run.deliver(0)
        run.deliver(0)
        for _ in range(2):
            run.read(1)
        assert self.ranks(run) == {0: INPUT, 1: MOVE}
        run.own([0], DONE)
        run.deliver(0)
        assert self.ranks(run) == {0: DONE, 1: MOVE}

    def test_many_room_write_ends_with_its_last_entry(self, run):
        """The reply has one id for all rooms: the entry of one may be an earlier one."""
        run.update(1, [0, 1], BOOT)
        run.own([0, 1], INPUT)
        run.deliver(0)
        run.read(9)
        assert (self.ranks(run), self.ranks(run, 1)) == ({0: INPUT, 1: BOOT}, {0: INPUT, 1: BOOT})

    @pytest.mark.parametrize("begin", ["reopen", "replay", "expire"])
    def test_room_restarted_by_other_rank_drops_former_ranks(self, run, begin):
        for rank in (0, 1, 2):
            run.update(rank, [0], MOVE)
        run.read(9)
        if begin == "replay":
            run.others(1, "replay", [0], INPUT)
        elif begin == "reopen":
            run.update(2, [0], FAIL)
            run.others(1, "reopen", [0])
        else:
            run.expire([0])
            run.update(1, [0], BOOT)
        run.read(9)
        assert self.ranks(run) == {1: INPUT if begin == "replay" else BOOT}
        assert run.replica.statuses == {}
        assert run.reported[-1] == (0, None)
        assert not run.replica.uncertain("ns")

    def test_feed_does_not_undo_newer_snapshot(self, run):
        for rank, status in ((1, BOOT), (0, BOOT), (1, FAIL), (1, MOVE)):
            run.update(rank, [0], status)
        run.read_snapshot([0])
        for _ in range(4):
            assert self.ranks(run) == {0: BOOT, 1: MOVE}
            run.read(1)
        run.update(1, [0], DONE)
        run.read(1)
        assert self.ranks(run) == {0: BOOT, 1: DONE}
        assert not read_positions_of(run.shard)

    def test_snapshot_older_than_entry_is_ignored(self, run):
        run.update(1, [0], BOOT)
        run.late_snapshot([0, 1])
        run.update(1, [0, 1], MOVE)
        run.read(9)
        run.deliver(0)
        assert (self.ranks(run), self.ranks(run, 1)) == ({1: MOVE}, {1: MOVE})

    def test_snapshot_older_than_own_write_shows_other_ranks(self, run):
        run.another_server(7)
        run.update(1, [0], MOVE)
        run.update(0, [0], BOOT)
        run.start()
        feed_id, rooms, reply = run.server.snapshot([0])
        run.own([0], DONE)
        run.deliver(0)
        assert run.replica.ranks == {}, "the other ranks are unknown yet"
        run.replica.snapshot("ns", feed_id, rooms, reply, 0)
        run.read(9)
        assert self.ranks(run) == {0: DONE, 1: MOVE}
        assert not run.replica.uncertain("ns")

    def test_resync_forgets_former_ranks(self, run):
        for rank in (0, 1, 2):
            run.update(rank, [0, 1], MOVE)
        run.read(9)
        run.another_server(0)
        run.own([0], BOOT)
        run.deliver(0)
        run.update(1, [0, 1], INPUT)
        assert run.shard.unconfirmed() == [0, 1]
        run.mark_synced()
        assert run.replica.ranks == {0: {0: BOOT, 1: INPUT}, 1: {1: INPUT}}

    def test_snapshot_of_expired_room_removes_it(self, run):
        run.update(1, [0], MOVE)
        run.read(9)
        run.expire([0])
        run.read_snapshot([0])
        assert run.replica.ranks == ids_of(run.shard) == {}
        assert not len(run.shard.expiry)

    def test_foreign_words_in_feed_and_snapshot_are_ignored(self, run):
        fields = [b"0", b"Bootstrapping", b"first:0", b"Banana", b"1", b"Failed", b"rank:x", b"Success"]
        run.replica.read("ns", [(b"9-0", fields)], True, 0)
        assert run.replica.ranks == {}
        assert run.replica.uncertain("ns") == [0, 1]
        words = b"status:0 Banana status:1 Success other:2 Success"
        reply = [None, 5, words, ValueError("WRONGTYPE"), -1, b""]
        run.replica.snapshot("ns", b"9-0", [0, 1], reply, 0)
        assert run.replica.ranks == {0: {1: DONE}}
        assert not run.replica.uncertain("ns")
