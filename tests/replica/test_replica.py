"""The replica without I/O: it ends equal to the server, whatever order replies and entries come in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import room_commands
from redis_kvpoll.protocol.feed_ids import number_of
from redis_kvpoll.protocol.keys import tag
from redis_kvpoll.replica.expiry import Expiry
from redis_kvpoll.replica.shard import ShardReplica
from tests.support.fuzzing import examples
from tests.support.internals import ahead_of, buckets_of, ids_of, statuses_of, ticks_of
from tests.support.replicas import CONTEXT, ROOMS, Run, anything, replica_of

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
        st.tuples(st.just("read_snapshot"), st.sets(st.sampled_from(ROOMS))),
        st.tuples(st.just("late_snapshot"), st.sets(st.sampled_from(ROOMS), min_size=1)),
        st.tuples(st.just("mark_synced")),
        st.tuples(st.just("another_server"), st.integers(0, 3)),
        st.tuples(st.just("end_session")),
    ),
    max_size=25,
)


def take(run, step):
    name, *arguments = step
    (run.server.write if name == "write" else getattr(run, name))(*arguments)


@given(STEPS, st.randoms(use_true_random=False))
@examples(400)
def test_any_interleaving_ends_equal_to_server(steps, random):
    run = Run()
    run.server.write({0: KVPoll.Bootstrapping, 1: KVPoll.Success})
    run.start()
    run.mark_synced()
    seen = {}
    for step in steps:
        take(run, step)
        run.check()
        now = (run.shard.resync_count, dict(ids_of(run.shard)), run.shard.position)
        if seen and seen[0] == now[0] and run.shard.is_followed:
            for room, at in seen[1].items():
                is_known = room not in run.shard.unverified
                assert now[1].get(room, now[2]) >= at or not is_known, f"room {room} went back"
        seen = now
    run.read(random.randint(0, 3))
    while run.replies:
        run.deliver(random.randint(0, 5))
        if random.random() < 0.5:
            run.read(1)
        run.check()
    if not run.shard.synced:
        run.mark_synced()
    run.read(1000)
    run.read_unverified()
    assert run.replica.statuses == run.server.rooms
    assert run.shown_reasons() == run.reasons()
    assert ids_of(run.shard).keys() == run.server.rooms.keys(), "only live rooms take memory"
    assert not ahead_of(run.shard)
    assert len(run.shard.expiry) == len(run.server.rooms)


@given(STEPS)
@examples(200)
def test_reported_changes_add_up_to_server(steps):
    """A callback that keeps the last reported status of each room ends with the same table."""
    run = Run()
    run.start()
    run.mark_synced()
    for step in steps:
        take(run, step)
    while run.replies:
        run.deliver(0)
    if not run.shard.synced:
        run.mark_synced()
    run.read(1000)
    run.read_unverified()
    last = dict(run.reported)
    assert {room: status for room, status in last.items() if status is not None} == run.server.rooms


@given(STEPS, st.sets(st.sampled_from(ROOMS)))
@examples(100)
def test_expired_rooms_go_when_due_ones_are_read(steps, gone):
    run = Run()
    run.start()
    run.mark_synced()
    for step in steps:
        take(run, step)
    run.mark_synced()
    for room in gone:
        run.server.expire(room)
    run.read_snapshot(run.replica.due("ns", 1e6, 100))
    run.read(1000)
    while run.replies:
        run.deliver(0)
    run.read(1000)
    run.read_unverified()
    run.read_snapshot(run.replica.due("ns", 1e6, 100))  # a late reply may have revived one until now
    assert run.replica.statuses == run.server.rooms


def test_entry_older_than_snapshot_revives_no_expired_room():
    run = Run()
    run.start()
    run.mark_synced()
    run.server.write({0: KVPoll.Transferring})
    run.server.expire(0)
    run.read_snapshot([0])
    run.read(10)
    assert run.replica.statuses == {}


class TestEntries:
    FIELDS = (b"ttl_ms", b"900000", b"7", b"Failed", b"8", b"Success", b"7", b"WaitingForInput")

    def entry(self, number):
        return [(b"%d-0" % number, self.FIELDS)]

    def test_last_status_of_a_room_in_entry_counts(self):
        """Calls that share a batch may have a room twice; it is then twice in one entry."""
        reported = []
        shard = ShardReplica({}, anything, lambda room, status: reported.append((room, status)))
        shard.start_resync(0)
        shard.read(self.entry(5), 0)
        assert statuses_of(shard) == {7: KVPoll.WaitingForInput, 8: KVPoll.Success}
        assert reported == [(7, KVPoll.Failed), (8, KVPoll.Success), (7, KVPoll.WaitingForInput)]

    def test_snapshot_older_than_entry_is_ignored(self):
        shard = ShardReplica({}, anything, lambda *_: None)
        shard.start_resync(0)
        shard.read(self.entry(5), 0)
        shard.snapshot(number_of(b"4-0"), [7, 8], [b"Transferring", 900_000, None, -2], 0, 0)
        assert statuses_of(shard) == {7: KVPoll.WaitingForInput, 8: KVPoll.Success}

    def test_feed_does_not_repeat_own_writes(self):
        reported = []
        shard = ShardReplica({}, anything, lambda room, status: reported.append((room, status)))
        shard.start_resync(0)
        call = room_commands.update_many({7: 2, 8: 4}).calls(CONTEXT)[0]
        shard.observe_write(number_of(b"5-0"), call, [2, b"WaitingForInput", 2, b"Success"], 0)
        reported.clear()
        shard.read(self.entry(5), 0)
        assert statuses_of(shard) == {7: KVPoll.WaitingForInput, 8: KVPoll.Success}
        assert KVPoll.Failed not in [status for _, status in reported]


class TestShards:
    def test_each_shard_has_its_own_ids(self):
        replica = replica_of(shards=4, policy="compat", mode="none", feed_length="9", ttl_ms="9", terminal_ttl_ms="9")
        a, b = next((a, b) for a in range(9) for b in range(9) if tag("ns", 4, a) != tag("ns", 4, b))
        replica.start_resync(tag("ns", 4, a), b"1000-0", 0)
        replica.start_resync(tag("ns", 4, b), b"1-0", 0)
        replica.snapshot(tag("ns", 4, b), b"1-0", [b], [b"Success", 1000], 0)
        assert replica.statuses == {b: KVPoll.Success}

    def test_resync_of_other_shard_keeps_own_writes(self):
        replica = replica_of(shards=2, policy="compat", mode="none", feed_length="9", ttl_ms="9", terminal_ttl_ms="9")
        for shard in replica.shards:
            replica.start_resync(shard, b"1-0", 0)
        call = room_commands.update_status(7, 1).calls(replica.context)[0]
        token = replica.sync_token()
        replica.start_resync(next(other for other in replica.shards if other != call.tag), b"5-0", 0)
        replica.observe_write(token, call, b"2-0", [1, b"Bootstrapping"], 0)
        assert replica.statuses == {7: KVPoll.Bootstrapping}

    def test_backlog_is_unsynced_and_leaves_no_expired_room(self):
        """This process was stopped for 600 s, and then reads entries from all that time."""
        replica = replica_of()
        replica.start_resync("ns", b"1-0", 0)
        replica.read("ns", [], True, 0)
        replica.mark_synced("ns", 0)
        replica.read("ns", [(b"2-0", [b"ttl_ms", b"300000", b"1", b"Success"])], False, 600)
        assert not replica.is_synced(600)
        assert replica.due("ns", 600, 10) == [1], "it may have expired long ago"
        replica.read("ns", [(b"3-0", [b"ttl_ms", b"300000", b"2", b"Success"])], True, 600)
        assert replica.is_synced(600)
        assert replica.due("ns", 600, 10) == [1, 2]
        replica.read("ns", [(b"4-0", [b"ttl_ms", b"300000", b"3", b"Success"])], True, 600)
        assert replica.due("ns", 600, 10) == [1, 2]

    def test_synced_needs_recent_reads_of_all_shards(self):
        replica = replica_of(shards=2, policy="compat", mode="none", feed_length="9", ttl_ms="9", terminal_ttl_ms="9")
        for shard in replica.shards:
            replica.start_resync(shard, b"1-0", 100)
            assert not replica.is_synced(100)
            replica.mark_synced(shard, 0)
        assert replica.is_synced(100.9)
        assert not replica.is_synced(101.1)
        assert replica.lag(101) == float("inf")
        replica.read("ns/0", [], True, 105)
        replica.read("ns/1", [], True, 107)
        assert replica.lag(108) == 3


def test_corrupt_rooms_are_absent_and_foreign_words_ignored():
    replica = replica_of()
    replica.start_resync("ns", b"1-0", 0)
    replica.snapshot("ns", b"1-0", [1, 2, 3], [b"Banana", 5, ValueError("WRONGTYPE"), 5, b"Success", -1], 0)
    fields = [b"ttl_ms", b"9", b"3", b"Banana", b"generation", b"7", b"4", b"Failed", b"reason", b"5"]
    replica.read("ns", [(b"2-0", fields)], True, 0)
    assert replica.statuses == {3: KVPoll.Success, 4: KVPoll.Failed}


def test_predicate_applies_to_every_source():
    replica = replica_of(lambda room: room % 2 == 0)
    replica.start_resync("ns", b"1-0", 0)
    replica.snapshot("ns", b"1-0", [0, 1], [b"Success", 1000] * 2, 0)
    replica.read("ns", [(b"2-0", [b"ttl_ms", b"9", b"2", b"Success", b"3", b"Success"])], True, 0)
    call = room_commands.update_many({4: 1, 5: 1}).calls(CONTEXT)[0]
    replica.observe_write(replica.sync_token(), call, b"3-0", [1, b"Bootstrapping"] * 2, 0)
    assert sorted(replica.statuses) == [0, 2, 4]


class TestExpiry:
    @given(st.lists(st.tuples(st.sampled_from(("set", "no_later", "drop")), st.integers(0, 9), st.integers(0, 40))))
    @examples(200)
    def test_expiry_matches_plain_dict(self, steps):
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
        assert not buckets_of(expiry)
        assert not plain

    def test_rooms_that_come_and_go_leave_nothing_behind(self):
        """Most rooms are cleared long before their TTL ends."""
        expiry = Expiry()
        for room in range(10_000):
            expiry.set(room, 900.0 + room / 10_000)
            expiry.drop(room)
        assert len(ticks_of(expiry)) <= 5


def test_entry_with_a_room_twice_reports_both_changes():
    """Two calls that share a batch may write the same room."""
    run = Run()
    run.start()
    run.mark_synced()
    at = (run.server.last + 1 >> 64, run.server.last + 1 & (1 << 64) - 1)
    fields = [b"ttl_ms", b"900000", b"1", b"Bootstrapping", b"2", b"Success", b"1", b"Transferring"]
    run.replica.read("ns", [(b"%d-%d" % at, fields)], True, 0)
    assert run.replica.statuses == {1: KVPoll.Transferring, 2: KVPoll.Success}
    assert run.replica.take_changes() == [
        (1, KVPoll.Bootstrapping),
        (2, KVPoll.Success),
        (1, KVPoll.Transferring),
    ]


def test_room_no_longer_relevant_is_dropped_when_due():
    for ranked in ({}, {"rank": "0", "world_size": "3"}):
        wanted = {1, 2}
        replica = replica_of(wanted.__contains__, **ranked)
        replica.start_resync("ns", b"1-0", 0)
        words = [b"Bootstrapping", 1000, *([b"status:0 Bootstrapping"] if ranked else [])]
        replica.snapshot("ns", b"2-0", [1, 2], words * 2, 0)
        wanted.remove(1)
        assert replica.due("ns", 600, 10) == [2]
        assert replica.statuses == {2: KVPoll.Bootstrapping}
        assert len(replica.shards["ns"].expiry) == len(ids_of(replica.shards["ns"])) == 1
