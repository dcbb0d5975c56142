"""Replies to own writes that were sent before the copy began anew: their ids mean nothing in it."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, StoreClosedError
from redis_kvpoll.protocol import room_commands
from redis_kvpoll.replica import rank_shard, shard
from tests.support.internals import ids_of, sizes_of
from tests.support.replicas import CONTEXT, RankedRun, Run, replica_of

BOOT, MOVE, DONE, FAIL = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success, KVPoll.Failed


@pytest.fixture(params=[Run, RankedRun])
def run(request):
    run = request.param()
    run.start()
    run.mark_synced()
    return run


def own(run, room, status, feed_id=b"9-0"):
    """The reply to an own write, and the mark that was taken when it was sent."""
    context = run.replica.context
    if status is None:
        command, reply = room_commands.clear(room), [7, None, None]
    else:
        command, reply = room_commands.update_status(room, status.value), [1, status.name.encode()]
    return run.replica.sync_token(), command.calls(context)[0], feed_id, reply


def snapshot_of(run, room, status):
    """What a read of the room answers."""
    ranks = [] if isinstance(run, Run) and not isinstance(run, RankedRun) else [b"status:0 " + status.name.encode()]
    return [room], [status.name.encode(), 900_000, *ranks]


def test_write_from_before_resync_is_shown_until_read(run):
    written = own(run, 1, BOOT)
    run.another_server(20)
    run.mark_synced()
    run.replica.observe_write(*written, 100.0)
    assert run.replica.statuses == {1: BOOT}
    assert not run.shard.synced
    assert run.replica.uncertain("ns") == [1]
    rooms, reply = snapshot_of(run, 1, MOVE)
    run.replica.snapshot("ns", b"25-0", rooms, reply, 101.0)
    assert run.replica.statuses == {1: MOVE}
    assert run.shard.synced
    assert run.replica.uncertain("ns") == []


def test_read_that_began_before_reply_does_not_count(run):
    written = own(run, 1, BOOT)
    run.another_server(20)
    run.mark_synced()
    run.replica.observe_write(*written, 100.0)
    rooms = [1]
    width = len(run.replica.read_spec.reply)
    run.replica.snapshot("ns", b"25-0", rooms, [None, -2, b""][:width], 101.0, asked_at=99.0)
    assert run.replica.statuses == {1: BOOT}
    assert not run.shard.synced
    run.replica.snapshot("ns", b"25-0", rooms, [None, -2, b""][:width], 101.0, asked_at=100.5)
    assert run.replica.statuses == {}
    assert run.shard.synced
    run.replica.read("ns", [(b"26-0", [b"by", b"hand"])], True, 102.0)
    assert not ids_of(run.shard)


def test_entries_do_not_undo_unverified_write(run):
    """They may be older: the room's end under its former request, for example."""
    written = own(run, 1, BOOT)
    run.another_server(20)
    run.mark_synced()
    run.replica.observe_write(*written, 100.0)
    run.replica.read("ns", [(b"21-0", [b"1", b"absent"])], True, 100.1)
    assert run.replica.statuses == {1: BOOT}


def test_write_during_resync_delays_its_end(run):
    written = own(run, 1, BOOT)
    run.another_server(20)
    run.replica.observe_write(*written, 100.0)
    assert 1 in run.shard.unconfirmed()
    run.replica.mark_synced("ns", 0)
    assert not run.shard.synced
    rooms, reply = snapshot_of(run, 1, BOOT)
    run.replica.snapshot("ns", b"25-0", rooms, reply, 101.0)
    assert run.shard.synced


def test_unverified_clear_hides_room_until_read(run):
    rooms, reply = snapshot_of(run, 1, MOVE)
    run.replica.snapshot("ns", b"5-0", rooms, reply, 1.0)
    written = own(run, 1, None)
    run.another_server(20)
    run.replica.snapshot("ns", b"21-0", rooms, reply, 99.0)
    run.replica.mark_synced("ns", 0)
    run.replica.observe_write(*written, 100.0)
    assert run.replica.statuses == {}
    assert not run.shard.synced
    run.replica.snapshot("ns", b"25-0", rooms, reply, 101.0)
    assert run.replica.statuses == {1: MOVE}


def test_unverified_status_ends_no_wait(run):
    rooms, reply = snapshot_of(run, 1, BOOT)
    run.replica.snapshot("ns", b"5-0", rooms, reply, 1.0)
    written = own(run, 1, DONE)
    run.another_server(20)
    run.replica.snapshot("ns", b"21-0", rooms, reply, 99.0)
    run.replica.mark_synced("ns", 0)
    waiter = run.replica.enter(1, frozenset([DONE, FAIL]), lambda: None, armed=True)
    other = run.replica.enter(2, frozenset([DONE]), lambda: None, armed=False)
    run.replica.observe_write(*written, 100.0)
    run.replica.arm(other)
    assert (waiter.outcome, other.outcome) == (None, None)
    rooms, reply = snapshot_of(run, 1, DONE)
    run.replica.snapshot("ns", b"25-0", rooms, reply, 101.0)
    assert waiter.outcome is DONE
    assert isinstance(other.outcome, KeyError)


def test_left_wait_of_unverified_room_lets_others_end():
    replica = replica_of(is_relevant=None)
    replica.start_resync("ns", b"1-0", 0)
    replica.mark_synced("ns", 0)
    first, second = (replica.enter(room, frozenset([DONE]), lambda: None, armed=True) for room in (1, 2))
    assert isinstance(second.outcome, KeyError)
    call = room_commands.update_status(1, 1).calls(CONTEXT)[0]
    third = replica.enter(3, frozenset([DONE]), lambda: None, armed=False)
    replica.observe_write({}, call, b"9-0", [1, b"Bootstrapping"], 100.0)
    replica.arm(third)
    assert third.outcome is None
    replica.leave(first)
    assert isinstance(third.outcome, KeyError)


def opening_of(run, room):
    """The words of the entry that tells it."""
    words = [b"ttl_ms", b"900000", b"%d" % room, b"Bootstrapping"]
    return [*words, b"first:0", b"Bootstrapping"] if run.replica.context.rank else words


def come_and_go(run, rooms):
    """Own writes that open and clear each of so many rooms."""
    for room in range(1000, 1000 + rooms):
        for status, number in (BOOT, 2 * room), (None, 2 * room + 1):
            run.replica.observe_write(*own(run, room, status, b"%d-0" % number), 100.0)


class TestWithoutReads:
    """The follower does not get on, maybe for days (maxclients, an ACL without XREAD), while own writes do."""

    def test_rooms_that_come_and_go_leave_nothing(self, run):
        run.end_session()
        come_and_go(run, 10_000)
        assert max(sizes_of(run.shard).values()) == 0

    def test_sessions_that_fail_leave_nothing(self, run):
        """They begin, and end before they have read the feed."""
        for _ in range(100):
            run.start()
            come_and_go(run, 10)
            run.end_session()
            come_and_go(run, 10)
        assert max(sizes_of(run.shard).values()) <= 20, "that of the last session alone"

    def test_rooms_that_sessions_outlive_leave_nothing(self, run):
        """One was opened before a session began, another under it."""
        for room in range(1000, 1100):
            late = own(run, room, BOOT, b"%d-0" % room)
            run.start()
            run.replica.observe_write(*late, 100.0)
            run.replica.observe_write(*own(run, room + 1000, BOOT, b"%d-0" % (room + 1)), 100.0)
            run.end_session()
            run.start()
            run.end_session()
            for each in room, room + 1000:
                run.replica.observe_write(*own(run, each, None, b"%d-0" % (room + 2)), 100.0)
        assert max(sizes_of(run.shard).values()) <= 2

    def test_writes_are_shown_and_read_by_the_next_session(self, run):
        run.replica.take_changes()
        run.end_session()
        for room, status in (1, BOOT), (2, BOOT), (2, None), (1, MOVE):
            run.replica.observe_write(*own(run, room, status), 100.0)
        assert run.replica.statuses == {1: MOVE}
        assert run.replica.take_changes() == []
        run.start()
        assert run.shard.unconfirmed() == [1]
        rooms, reply = snapshot_of(run, 1, MOVE)
        run.replica.snapshot("ns", b"25-0", rooms, reply, 101.0)
        assert run.replica.take_changes() == [(1, MOVE)]

    def test_room_that_went_meanwhile_is_told_as_gone(self, run):
        rooms, reply = snapshot_of(run, 1, MOVE)
        run.replica.snapshot("ns", b"5-0", rooms, reply, 1.0)
        run.replica.take_changes()
        run.end_session()
        run.replica.observe_write(*own(run, 1, None), 100.0)
        run.start()
        assert run.shard.unconfirmed() == [1]
        run.replica.snapshot("ns", b"1-0", rooms, [None, -2, b""][: len(reply)], 101.0)
        assert run.replica.take_changes() == [(1, None)]
        assert not ids_of(run.shard)

    def test_room_that_is_again_as_it_was_is_read(self, run):
        rooms, reply = snapshot_of(run, 1, BOOT)
        run.replica.snapshot("ns", b"5-0", rooms, reply, 1.0)
        run.end_session()
        for status in None, BOOT:
            run.replica.observe_write(*own(run, 1, status), 100.0)
        run.start()
        assert run.shard.unconfirmed() == [1]

    def test_follower_that_does_not_read_is_given_up(self, run, monkeypatch):
        """As while a callback hangs: the session goes on, and reads everything anew once it gets on."""
        for module in (shard, rank_shard):
            monkeypatch.setattr(module, "MAX_AHEAD", 100)
        before = run.replica.resyncs_wanted
        come_and_go(run, 10_000)
        assert max(sizes_of(run.shard).values()) < 110
        assert run.replica.resyncs_wanted == before + 1
        assert not run.shard.synced

    @pytest.mark.parametrize("source", ["feed", "snapshot"])
    def test_given_up_follower_brings_no_cleared_room_back(self, run, monkeypatch, source):
        """Its next page ends before the clear, or its read was on its way: both are of before."""
        for module in (shard, rank_shard):
            monkeypatch.setattr(module, "MAX_AHEAD", 100)
        come_and_go(run, 10_000)
        if source == "feed":
            run.replica.read("ns", [(b"2000-0", opening_of(run, 1000))], False, 101.0)
        else:
            rooms, reply = snapshot_of(run, 1000, BOOT)
            run.replica.snapshot("ns", b"2000-0", rooms, reply, 101.0, asked_at=99.0)
        assert run.replica.statuses == {}
        assert run.replica.consensus == {}

    def test_long_period_is_no_follower_that_does_not_read(self, run, monkeypatch):
        for module in (shard, rank_shard):
            monkeypatch.setattr(module, "MAX_AHEAD", 100)
        run.replica.period = 1000.0
        before = run.replica.resyncs_wanted
        come_and_go(run, 200)
        assert run.replica.resyncs_wanted == before


def test_change_by_handler_comes_after_interrupted_one():
    """Without threads: the change itself is interrupted."""
    replica = replica_of()
    replica.start_resync("ns", b"1-0", 0)
    replica.notifying = True
    shard = replica.shards["ns"]
    read = shard.read

    def interrupted(entries, now):
        call = room_commands.update_status(1, 3).calls(CONTEXT)[0]
        replica.observe_write(replica.sync_token(), call, b"9-0", [1, b"Transferring"], 0)
        assert replica.statuses == {}, "put off"
        replica.end(StoreClosedError("closed"))
        read(entries, now)

    shard.read = interrupted
    replica.read("ns", [(b"5-0", [b"1", b"Bootstrapping"])], True, 0)
    assert replica.statuses == {1: MOVE}


def test_change_cut_short_is_followed_by_resync():
    replica = replica_of()
    replica.start_resync("ns", b"1-0", 0)
    replica.mark_synced("ns", 0)
    shard = replica.shards["ns"]

    def cut_short(entries, now):
        raise KeyboardInterrupt

    shard.read = cut_short
    with pytest.raises(KeyboardInterrupt):
        replica.read("ns", [(b"5-0", [b"1", b"Bootstrapping"])], True, 0)
    assert not shard.synced
    assert replica.resyncs_wanted == 1
    replica.observe_write({}, room_commands.update_status(2, 1).calls(CONTEXT)[0], b"9-0", [1, b"Bootstrapping"], 0)
    assert replica.statuses == {2: BOOT}, "later changes are not blocked"
