"""The local copy by itself: whatever order the news comes in, it ends as the truth, and never believes older news."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll import KVPoll, RoomNotFoundError, StoreClosedError, commands
from redis_kvpoll.checks import wait_statuses
from redis_kvpoll.commands import Layout
from redis_kvpoll.commands.shape import SNAPSHOT
from redis_kvpoll.keys import tag
from redis_kvpoll.mirror.expiry import Expiry
from redis_kvpoll.mirror.replica import Replica
from redis_kvpoll.mirror.shard import number_of, text_of
from tests.fuzzing import examples

LAYOUT = Layout("ns", 1, "compat", "none", "1000", "900000", "300000")
ROOMS = range(5)
ENDS = wait_statuses(())


def anything(room):
    return True


def replica_of(wants=anything, **layout):
    return Replica(LAYOUT if not layout else Layout("ns", **layout), contextlib.nullcontext(), wants)


class Server:
    """One shard of a server as the scripts would leave it: the rooms, and the feed of what changed."""

    def __init__(self, start=1):
        self.last = start << 64
        self.rooms = {}
        self.feed = []
        self.history = {room: [(-1, None)] for room in ROOMS}

    def write(self, statuses, entries=1):
        """Change rooms in one step, in so many entries; the id of the last."""
        items = list(statuses.items())
        for at in range(0, len(items), -(-len(items) // entries)):
            self.last += 1
            fields = [b"ttl_ms", b"900000"]
            for room, status in items[at : at + -(-len(items) // entries)]:
                fields += [b"%d" % room, status.name.encode() if status is not None else b"absent"]
                self._set(room, status)
            self.feed.append((text_of(self.last).encode(), fields))
        return text_of(self.last).encode()

    def _set(self, room, status):
        self.history[room].append((self.last, status))
        if status is None:
            self.rooms.pop(room, None)
        else:
            self.rooms[room] = status

    def expire(self, room):
        """Gone, and no entry says so."""
        self._set(room, None)

    def snapshot(self, rooms):
        reply = []
        for room in rooms:
            status = self.rooms.get(room)
            reply += [None, -2] if status is None else [status.name.encode(), 900_000]
        return text_of(self.last).encode(), list(rooms), reply

    def after(self, position):
        return [entry for entry in self.feed if number_of(entry[0]) > position]

    def could_be(self, room, at, status):
        """Whether the room had the status at that id; it may have expired at the same id."""
        last = max(when for when, _ in self.history[room] if when <= at)
        return (last, status) in self.history[room]


class Run:
    """A replica that follows a server, and the replies that are still on their way."""

    def __init__(self):
        self.replica = replica_of()
        self.shard = self.replica.shards["ns"]
        self.replica.telling = True
        self.server = Server()
        self.replies = []
        self.told = []

    def start(self):
        self.replica.begin("ns", text_of(self.server.last).encode(), 0)

    def own(self, statuses, entries):
        mark = self.replica.departing()
        feed_id = self.server.write(statuses, entries)
        rooms = list(statuses)
        names = [status.name.encode() if status is not None else None for status in statuses.values()]
        if None in names:
            command, reply = commands.clear_many(rooms), [None, None] * len(rooms)
        else:
            command = commands.update_many(statuses)
            reply = [word for name in names for word in (2, name)]
        self.replies.append((mark, command.calls(LAYOUT)[0], feed_id, reply))

    def late_look(self, rooms):
        """What a wait reads: over another connection, so that its reply may be late."""
        mark = self.replica.departing()
        feed_id, rooms, reply = self.server.snapshot(rooms)
        call = SNAPSHOT.call(LAYOUT, "ns", rooms, [], range(len(rooms)))
        self.replies.append((mark, call, feed_id, reply))

    def deliver(self, which):
        if self.replies:
            self.replica.wrote(*self.replies.pop(which % len(self.replies)), 0)

    def look(self, rooms):
        self.replica.snapshot("ns", *self.server.snapshot(rooms), 0)

    def read(self, count):
        self.replica.read("ns", self.server.after(self.shard.position)[:count], True, 0)
        self.told += self.replica.take_changes()

    def confirm(self):
        self.look(set(self.server.rooms) | set(self.shard.unconfirmed()))
        self.read(1000)
        assert not self.shard.unconfirmed()
        self.replica.confirm("ns", self.replica.suspicions)

    def another_server(self, start):
        """Lower ids or higher, and other rooms; the replies that are on their way come all the same."""
        self.server = Server(start)
        self.start()

    def check(self):
        for room, at in self.shard._ids.items():
            assert self.server.could_be(room, at, self.replica.statuses.get(room)), f"room {room} is none it ever was"
        ahead = {room for _, room in self.shard._ahead}
        assert self.shard._ids.keys() <= self.replica.statuses.keys() | ahead, "an absent room is kept for ever"
        assert all(at > self.shard.position for at, _ in self.shard._ahead)


STATUSES = st.sampled_from([*KVPoll, None])
SOME = st.dictionaries(st.sampled_from(ROOMS), STATUSES, min_size=1, max_size=4)
LIVE = st.dictionaries(st.sampled_from(ROOMS), st.sampled_from(KVPoll), min_size=1, max_size=4)
FEW = st.integers(1, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), SOME, FEW),
        st.tuples(st.just("own"), st.one_of(LIVE, LIVE.map(lambda rooms: dict.fromkeys(rooms))), FEW),
        st.tuples(st.just("deliver"), st.integers(0, 5)),
        st.tuples(st.just("read"), FEW),
        st.tuples(st.just("look"), st.sets(st.sampled_from(ROOMS))),
        st.tuples(st.just("late_look"), st.sets(st.sampled_from(ROOMS), min_size=1)),
        st.tuples(st.just("confirm")),
        st.tuples(st.just("another_server"), st.integers(0, 3)),
    ),
    max_size=25,
)


def take(run, step):
    name, *arguments = step
    (run.server.write if name == "write" else getattr(run, name))(*arguments)


@given(STEPS, st.randoms(use_true_random=False))
@examples(400)
def test_any_interleaving_ends_as_the_truth(steps, random):
    run = Run()
    run.server.write({0: KVPoll.Bootstrapping, 1: KVPoll.Success})
    run.start()
    run.confirm()
    seen = {}
    for step in steps:
        take(run, step)
        run.check()
        now = (run.server, dict(run.shard._ids), run.shard.position)
        if seen and seen[0] is now[0]:
            for room, at in seen[1].items():
                assert now[1].get(room, now[2]) >= at, f"room {room} went back"
        seen = now
    run.read(random.randint(0, 3))
    while run.replies:
        run.deliver(random.randint(0, 5))
        if random.random() < 0.5:
            run.read(1)
        run.check()
    if not run.shard.synced:
        run.confirm()
    run.read(1000)
    assert run.replica.statuses == run.server.rooms
    assert run.shard._ids.keys() == run.server.rooms.keys(), "memory is that of the live rooms"
    assert not run.shard._ahead
    assert len(run.shard.expiry) == len(run.server.rooms)


@given(STEPS)
@examples(200)
def test_who_is_told_of_all_changes_knows_the_truth(steps):
    """A listener that only keeps what it was told last of each room ends with the same table."""
    run = Run()
    run.start()
    run.confirm()
    for step in steps:
        take(run, step)
    while run.replies:
        run.deliver(0)
    if not run.shard.synced:
        run.confirm()
    run.read(1000)
    last = dict(run.told)
    assert {room: status for room, status in last.items() if status is not None} == run.server.rooms


@given(STEPS, st.sets(st.sampled_from(ROOMS)))
@examples(100)
def test_what_expires_without_a_word_goes_when_the_server_is_asked(steps, gone):
    run = Run()
    run.start()
    run.confirm()
    for step in steps:
        take(run, step)
    run.confirm()
    for room in gone:
        run.server.expire(room)
    run.look(run.replica.due("ns", 1e6, 100))
    run.read(1000)
    while run.replies:
        run.deliver(0)
    run.read(1000)
    run.look(run.replica.due("ns", 1e6, 100))  # a late reply may have brought one back, but not for long
    assert run.replica.statuses == run.server.rooms


def test_an_entry_that_is_read_after_a_look_brings_nothing_back_that_has_expired():
    run = Run()
    run.start()
    run.confirm()
    run.server.write({0: KVPoll.Transferring})
    run.server.expire(0)
    run.look([0])
    run.read(10)
    assert run.replica.statuses == {}


class TestWaiting:
    @pytest.fixture
    def run(self):
        run = Run()
        run.start()
        run.confirm()
        return run

    def enter(self, run, room, *statuses, armed=True):
        woken = []
        waiter = run.replica.enter(room, wait_statuses(statuses), lambda: woken.append(room), armed)
        return waiter, woken

    def test_each_change_is_judged_even_when_many_come_at_once(self, run):
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
    def test_further_on_is_there_too(self, run, wanted, there, ends):
        run.server.write({1: there})
        run.read(1)
        waiter, _ = self.enter(run, 1, *wanted)
        assert waiter.outcome == (there if ends else None)

    def test_an_absent_room_ends_it(self, run):
        waiter, _ = self.enter(run, 1)
        assert isinstance(waiter.outcome, RoomNotFoundError)
        assert str(waiter.outcome).startswith("wait: room 1 is not in the table")

    def test_nobody_is_woken_by_what_may_be_old(self, run):
        run.server.write({1: KVPoll.Transferring})
        run.read(10)
        waiter, woken = self.enter(run, 1)
        run.replica.doubt(["ns"])
        run.server.write({1: KVPoll.Success})
        run.read(10)
        assert not woken
        run.another_server(7)
        run.server.write({1: KVPoll.Failed})
        run.confirm()
        assert (waiter.outcome, woken) == (KVPoll.Failed, [1])

    def test_a_suspicion_during_the_fresh_start_is_not_forgotten(self, run):
        before = run.replica.suspicions
        run.replica.suspect()
        run.replica.confirm("ns", before)
        assert not run.shard.synced

    def test_who_left_is_not_kept(self, run):
        run.server.write({1: KVPoll.Transferring})
        run.read(10)
        waiters = [self.enter(run, 1)[0] for _ in range(3)]
        for waiter in (*waiters, waiters[0]):
            run.replica.leave(waiter)
        assert not run.shard.waiters

    def test_the_end_ends_all(self, run):
        run.replica.doubt(["ns"])
        waiters = [self.enter(run, room)[0] for room in ROOMS]
        run.replica.end(StoreClosedError("closed"))
        assert {type(waiter.outcome) for waiter in waiters} == {StoreClosedError}


class TestOnlyWaited:
    """The copy behind store.wait: of the rooms that are waited for, and no others."""

    @pytest.fixture
    def run(self):
        run = Run()
        run.replica = replica_of(wants=None)
        run.shard = run.replica.shards["ns"]
        run.start()
        run.confirm()
        return run

    def enter(self, run, room=1):
        return run.replica.enter(room, ENDS, lambda: None, armed=False)

    def test_it_holds_nothing_else(self, run):
        run.server.write(dict.fromkeys(ROOMS, KVPoll.Transferring))
        waiter = self.enter(run)
        run.late_look([1])
        run.deliver(0)
        run.replica.arm(waiter)
        run.server.write(dict.fromkeys(ROOMS, KVPoll.WaitingForInput))
        run.read(10)
        assert run.replica.statuses == {1: KVPoll.WaitingForInput}
        run.replica.leave(waiter)
        assert not run.replica.statuses
        assert not run.shard._ids
        assert not len(run.shard.expiry)

    def test_what_was_before_the_wait_does_not_end_it(self, run):
        """The feed is behind: the room was cleared and made anew before anybody waited."""
        run.server.write({1: None})
        run.server.write({1: KVPoll.Bootstrapping})
        waiter = self.enter(run)
        run.read(1)
        assert waiter.outcome is None
        run.late_look([1])
        run.deliver(0)
        run.replica.arm(waiter)
        run.read(10)
        assert waiter.outcome is None
        run.server.write({1: KVPoll.Success})
        run.read(10)
        assert waiter.outcome is KVPoll.Success

    def test_a_look_is_believed_though_the_feed_has_gone_on_since(self, run):
        run.server.write({1: KVPoll.Bootstrapping})
        run.read(10)
        waiter = self.enter(run)
        run.late_look([1])
        run.server.write({2: KVPoll.Bootstrapping})
        run.read(10)
        run.deliver(0)
        run.replica.arm(waiter)
        assert run.replica.statuses == {1: KVPoll.Bootstrapping}
        assert waiter.outcome is None

    def test_a_look_that_comes_late_does_not_undo_what_the_feed_said(self, run):
        run.server.write({1: KVPoll.Bootstrapping})
        waiter = self.enter(run)
        run.late_look([1])
        run.server.write({1: None})
        run.read(10)
        run.deliver(0)
        run.replica.arm(waiter)
        assert isinstance(waiter.outcome, RoomNotFoundError)

    def test_nor_does_one_for_somebody_before(self, run):
        run.server.write({1: KVPoll.Success})
        first = self.enter(run)
        run.late_look([1])
        run.server.write({1: None})
        run.server.write({1: KVPoll.Bootstrapping})
        run.read(10)
        run.replica.leave(first)
        second = self.enter(run)
        run.deliver(0)
        assert run.replica.statuses == {}
        run.late_look([1])
        run.deliver(0)
        run.replica.arm(second)
        assert second.outcome is None

    def test_a_fresh_start_reads_all_that_are_waited_for(self, run):
        waiters = [self.enter(run, room) for room in ROOMS]
        run.another_server(0)
        assert sorted(run.shard.unconfirmed()) == list(ROOMS)
        run.server.write(dict.fromkeys(ROOMS, KVPoll.Success))
        for waiter in waiters:
            run.replica.arm(waiter)
        run.confirm()
        assert {waiter.outcome for waiter in waiters} == {KVPoll.Success}


class TestShards:
    def test_each_has_ids_of_its_own(self):
        replica = replica_of(shards=4, policy="compat", mode="none", feed_length="9", ttl_ms="9", terminal_ttl_ms="9")
        a, b = next((a, b) for a in range(9) for b in range(9) if tag("ns", 4, a) != tag("ns", 4, b))
        replica.begin(tag("ns", 4, a), b"1000-0", 0)
        replica.begin(tag("ns", 4, b), b"1-0", 0)
        replica.snapshot(tag("ns", 4, b), b"1-0", [b], [b"Success", 1000], 0)
        assert replica.statuses == {b: KVPoll.Success}

    def test_another_shards_fresh_start_leaves_own_writes_alone(self):
        replica = replica_of(shards=2, policy="compat", mode="none", feed_length="9", ttl_ms="9", terminal_ttl_ms="9")
        for shard in replica.shards:
            replica.begin(shard, b"1-0", 0)
        call = commands.update_status(7, 1).calls(replica.layout)[0]
        mark = replica.departing()
        replica.begin(next(other for other in replica.shards if other != call.tag), b"5-0", 0)
        replica.wrote(mark, call, b"2-0", [1, b"Bootstrapping"], 0)
        assert replica.statuses == {7: KVPoll.Bootstrapping}

    def test_a_backlog_is_not_current_and_leaves_no_ghosts(self):
        """This process was stopped for 600 s, and then reads what was appended at any time in them."""
        replica = replica_of()
        replica.begin("ns", b"1-0", 0)
        replica.read("ns", [], True, 0)
        replica.confirm("ns", 0)
        replica.read("ns", [(b"2-0", [b"ttl_ms", b"300000", b"1", b"Success"])], False, 600)
        assert not replica.is_synced(600)
        assert replica.due("ns", 600, 10) == [1], "it may have expired long ago"
        replica.read("ns", [(b"3-0", [b"ttl_ms", b"300000", b"2", b"Success"])], True, 600)
        assert replica.is_synced(600)
        assert replica.due("ns", 600, 10) == [1, 2]
        replica.read("ns", [(b"4-0", [b"ttl_ms", b"300000", b"3", b"Success"])], True, 600)
        assert replica.due("ns", 600, 10) == [1, 2]

    def test_current_means_heard_of_lately(self):
        replica = replica_of(shards=2, policy="compat", mode="none", feed_length="9", ttl_ms="9", terminal_ttl_ms="9")
        for shard in replica.shards:
            replica.begin(shard, b"1-0", 100)
            assert not replica.is_synced(100)
            replica.confirm(shard, 0)
        assert replica.is_synced(100.9)
        assert not replica.is_synced(101.1)
        assert replica.lag(101) == float("inf")
        replica.read("ns/0", [], True, 105)
        replica.read("ns/1", [], True, 107)
        assert replica.lag(108) == 3


def test_corrupt_and_foreign_words_are_absent_rooms():
    replica = replica_of()
    replica.begin("ns", b"1-0", 0)
    replica.snapshot("ns", b"1-0", [1, 2, 3], [b"Banana", 5, ValueError("WRONGTYPE"), 5, b"Success", -1], 0)
    fields = [b"3", b"Banana", b"generation", b"7", b"4", b"Failed", b"reason", b"5"]
    replica.read("ns", [(b"2-0", fields)], True, 0)
    assert replica.statuses == {4: KVPoll.Failed}


def test_a_predicate_is_asked_by_every_source():
    replica = replica_of(lambda room: room % 2 == 0)
    replica.begin("ns", b"1-0", 0)
    replica.snapshot("ns", b"1-0", [0, 1], [b"Success", 1000] * 2, 0)
    replica.read("ns", [(b"2-0", [b"2", b"Success", b"3", b"Success"])], True, 0)
    call = commands.update_many({4: 1, 5: 1}).calls(LAYOUT)[0]
    replica.wrote(replica.departing(), call, b"3-0", [1, b"Bootstrapping"] * 2, 0)
    assert sorted(replica.statuses) == [0, 2, 4]


class TestExpiry:
    @given(st.lists(st.tuples(st.sampled_from(("set", "no_later", "drop")), st.integers(0, 9), st.integers(0, 40))))
    @examples(200)
    def test_against_a_plain_dict(self, steps):
        expiry, plain = Expiry(), {}
        for name, room, at in steps:
            if name == "drop":
                expiry.drop(room)
                plain.pop(room, None)
            else:
                getattr(expiry, name)(room, at)
                plain[room] = at if name == "set" else min(at, plain.get(room, at))
            assert len(expiry) == len(plain)
        for now in range(-1, 43):
            due = {room for room, at in plain.items() if at + 0.25 <= now}
            found = set()
            while some := expiry.due(now, 2):
                assert len(some) <= 2
                found.update(some)
                for room in some:
                    expiry.drop(room)
                    del plain[room]
            assert found == due
        assert not expiry._buckets
        assert not plain
