"""Waiters of a replica: when they wake, and what they get."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, RoomNotFoundError, StoreClosedError, StoreUnavailableError, WaitTimeoutError
from redis_kvpoll.engine.effects import Sleep
from redis_kvpoll.replica.host import WaitTurns
from redis_kvpoll.validation import wait_statuses
from tests.support.internals import ids_of
from tests.support.replicas import ROOMS, RankedRun, Run, replica_of

ENDS = wait_statuses(())
BOOT, MOVE, DONE, FAIL = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success, KVPoll.Failed


class TestWaiting:
    @pytest.fixture
    def run(self):
        run = Run()
        run.start()
        run.mark_synced()
        return run

    def enter(self, run, room, *statuses, armed=True):
        woken = []
        waiter = run.replica.enter(room, wait_statuses(statuses), lambda: woken.append(room), armed)
        return waiter, woken

    def test_every_change_is_checked_in_one_read(self, run):
        run.server.write({1: KVPoll.Transferring})
        run.read(10)
        waiter, woken = self.enter(run, 1)
        run.server.write({1: KVPoll.Success})
        run.server.write({1: None})
        run.read(10)
        assert (waiter.outcome, woken) == (KVPoll.Success, [1])

    @pytest.mark.parametrize(
        ("wanted", "there", "ends"),
        [
            ((), KVPoll.Transferring, False),
            ((), KVPoll.Failed, True),
            ((KVPoll.WaitingForInput,), KVPoll.Bootstrapping, False),
            ((KVPoll.WaitingForInput,), KVPoll.Transferring, True),
            ((KVPoll.Transferring,), KVPoll.Failed, True),
            ((KVPoll.Failed,), KVPoll.Success, True),
            ((KVPoll.Failed,), KVPoll.Transferring, False),
            ((KVPoll.Failed, KVPoll.WaitingForInput), KVPoll.Transferring, True),
            ((0, 1), KVPoll.Bootstrapping, True),
        ],
    )
    def test_wait_ends_at_or_beyond_goal(self, run, wanted, there, ends):
        run.server.write({1: there})
        run.read(1)
        waiter, _ = self.enter(run, 1, *wanted)
        assert waiter.outcome == (there if ends else None)

    def test_wait_ends_for_absent_room(self, run):
        waiter, _ = self.enter(run, 1)
        assert isinstance(waiter.outcome, RoomNotFoundError)
        assert str(waiter.outcome).startswith("wait: room 1 is not in the table")

    def test_unsynced_changes_wake_no_waiter(self, run):
        run.server.write({1: KVPoll.Transferring})
        run.read(10)
        waiter, woken = self.enter(run, 1)
        run.replica.mark_unsynced(["ns"])
        run.server.write({1: KVPoll.Success})
        run.read(10)
        assert not woken
        run.another_server(7)
        run.server.write({1: KVPoll.Failed})
        run.mark_synced()
        assert (waiter.outcome, woken) == (KVPoll.Failed, [1])

    def test_suspicion_during_resync_keeps_shard_unsynced(self, run):
        before = run.replica.resyncs_wanted
        run.replica.server_changed()
        run.replica.mark_synced("ns", before)
        assert not run.shard.synced

    def test_left_waiters_are_not_kept(self, run):
        run.server.write({1: KVPoll.Transferring})
        run.read(10)
        waiters = [self.enter(run, 1)[0] for _ in range(3)]
        for waiter in (*waiters, waiters[0]):
            run.replica.leave(waiter)
        assert not run.shard.waiters

    def test_end_ends_all_waits(self, run):
        run.replica.mark_unsynced(["ns"])
        waiters = [self.enter(run, room)[0] for room in ROOMS]
        run.replica.end(StoreClosedError("closed"))
        assert {type(waiter.outcome) for waiter in waiters} == {StoreClosedError}


class TestAwaitedRoomsOnly:
    """The replica behind store.wait holds only rooms that are waited for."""

    @pytest.fixture
    def run(self):
        run = Run()
        run.replica = replica_of(is_relevant=None)
        run.shard = run.replica.shards["ns"]
        run.start()
        run.mark_synced()
        return run

    def enter(self, run, room=1):
        return run.replica.enter(room, ENDS, lambda: None, armed=False)

    def test_only_awaited_rooms_are_held(self, run):
        run.server.write(dict.fromkeys(ROOMS, KVPoll.Transferring))
        waiter = self.enter(run)
        run.late_snapshot([1])
        run.deliver(0)
        run.replica.arm(waiter)
        run.server.write(dict.fromkeys(ROOMS, KVPoll.WaitingForInput))
        run.read(10)
        assert run.replica.statuses == {1: KVPoll.WaitingForInput}
        run.replica.leave(waiter)
        assert not run.replica.statuses
        assert not ids_of(run.shard)
        assert not len(run.shard.expiry)

    def test_entries_from_before_the_wait_do_not_end_it(self, run):
        """The replica is behind: the room was cleared and created again before the wait."""
        run.server.write({1: None})
        run.server.write({1: KVPoll.Bootstrapping})
        waiter = self.enter(run)
        run.read(1)
        assert waiter.outcome is None
        run.late_snapshot([1])
        run.deliver(0)
        run.replica.arm(waiter)
        run.read(10)
        assert waiter.outcome is None
        run.server.write({1: KVPoll.Success})
        run.read(10)
        assert waiter.outcome is KVPoll.Success

    def test_snapshot_counts_though_feed_went_on(self, run):
        run.server.write({1: KVPoll.Bootstrapping})
        run.read(10)
        waiter = self.enter(run)
        run.late_snapshot([1])
        run.server.write({2: KVPoll.Bootstrapping})
        run.read(10)
        run.deliver(0)
        run.replica.arm(waiter)
        assert run.replica.statuses == {1: KVPoll.Bootstrapping}
        assert waiter.outcome is None

    def test_late_snapshot_does_not_undo_feed(self, run):
        run.server.write({1: KVPoll.Bootstrapping})
        waiter = self.enter(run)
        run.late_snapshot([1])
        run.server.write({1: None})
        run.read(10)
        run.deliver(0)
        run.replica.arm(waiter)
        assert isinstance(waiter.outcome, RoomNotFoundError)

    def test_late_snapshot_of_earlier_waiter_is_ignored(self, run):
        run.server.write({1: KVPoll.Success})
        first = self.enter(run)
        run.late_snapshot([1])
        run.server.write({1: None})
        run.server.write({1: KVPoll.Bootstrapping})
        run.read(10)
        run.replica.leave(first)
        second = self.enter(run)
        run.deliver(0)
        assert run.replica.statuses == {}
        run.late_snapshot([1])
        run.deliver(0)
        run.replica.arm(second)
        assert second.outcome is None

    def test_resync_reads_all_awaited_rooms(self, run):
        waiters = [self.enter(run, room) for room in ROOMS]
        run.another_server(0)
        assert sorted(run.shard.unconfirmed()) == list(ROOMS)
        run.server.write(dict.fromkeys(ROOMS, KVPoll.Success))
        for waiter in waiters:
            run.replica.arm(waiter)
        run.mark_synced()
        assert {waiter.outcome for waiter in waiters} == {KVPoll.Success}


class TestOneOfSeveralRanks:
    @pytest.fixture
    def run(self):
        run = RankedRun()
        run.start()
        run.mark_synced()
        return run

    def test_change_of_other_rank_before_snapshot_is_ignored(self, run):
        """The feed is ahead of the wait's first snapshot, and has an entry of another rank for the room."""
        run.follow(None)
        run.start()
        run.mark_synced()
        run.server.act(0, "update_status", [0], BOOT)
        run.read(9)
        waiter = run.replica.enter(0, wait_statuses(()), lambda: None, armed=False)
        run.late_snapshot([0])
        run.update(1, [0], MOVE)
        run.read(9)
        run.deliver(0)
        run.replica.arm(waiter)
        assert run.replica.statuses == {0: BOOT}
        assert waiter.outcome is None
        run.others(1, "abort", [0])
        run.read(9)
        assert waiter.outcome is FAIL

    def test_older_snapshot_keeps_room_uncertain(self, run):
        run.follow(None)
        run.start()
        run.mark_synced()
        run.update(0, [0], BOOT)
        run.update(1, [0], BOOT)
        run.read(9)
        waiter = run.replica.enter(0, wait_statuses(()), lambda: None, armed=False)
        run.late_snapshot([0])
        run.update(1, [0], FAIL)
        run.read(9)
        run.deliver(0)
        run.replica.arm(waiter)
        assert run.replica.statuses == {0: BOOT}
        run.read_uncertain()
        assert waiter.outcome is FAIL

    def test_room_of_left_waiter_is_not_read(self, run):
        run.follow(None)
        run.update(1, [0], BOOT)
        run.start()
        waiter = run.replica.enter(0, wait_statuses(()), lambda: None, armed=False)
        run.update(1, [0], FAIL)
        run.read(9)
        assert run.replica.uncertain("ns") == [0]
        run.replica.leave(waiter)
        assert run.replica.uncertain("ns") == []
        assert run.replica.ranks == {}

    def test_resync_does_not_keep_old_status_for_other_rank(self, run):
        run.follow(None)
        run.update(0, [0], BOOT)
        run.start()
        run.mark_synced()
        waiter = run.replica.enter(0, wait_statuses(()), lambda: None, armed=True)
        run.late_snapshot([0])
        run.deliver(0)
        run.another_server(9)
        run.update(1, [0], MOVE)
        run.read(9)
        run.mark_synced()
        assert isinstance(waiter.outcome, RoomNotFoundError)


class TestTurns:
    """A wait's turns, each of which ended by an error."""

    AWAY, ABSENT = StoreUnavailableError("away"), RoomNotFoundError(1, "wait")

    class Store:
        """What it answers when it is asked for the room."""

        def __init__(self, answer):
            self.answer = answer

        def _ask_store(self, room, for_wait):
            yield Sleep(0.0)
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    def end(self, turns, error, is_over=False):
        """End a turn; the wait goes on unless this raises."""
        assert all(isinstance(effect, Sleep) for effect in turns.after(error, is_over))

    def test_first_read_may_fail(self):
        with pytest.raises(StoreUnavailableError):
            self.end(WaitTurns(self.Store(True), 1, None), self.AWAY)

    @pytest.mark.parametrize("answer", [True, AWAY])
    def test_outage_only_prolongs_a_wait(self, answer):
        turns = WaitTurns(self.Store(answer), 1, 5.0)
        for error in (self.ABSENT, self.AWAY, self.AWAY, self.ABSENT, self.AWAY):
            self.end(turns, error)
        with pytest.raises(WaitTimeoutError):
            self.end(turns, self.AWAY, is_over=True)

    def test_wait_without_time_has_a_second_turn(self):
        """In it, the room is read after the store was asked for it."""
        turns = WaitTurns(self.Store(True), 1, 0.0)
        self.end(turns, self.ABSENT, is_over=True)
        with pytest.raises(WaitTimeoutError):
            self.end(turns, self.ABSENT, is_over=True)

    def test_room_that_is_gone_ends_a_wait(self):
        with pytest.raises(RoomNotFoundError):
            self.end(WaitTurns(self.Store(False), 1, None), self.ABSENT)
