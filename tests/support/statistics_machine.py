"""Random histories of a table with one follower of its statistics, over fakeredis.

The follower runs step by step, and the test moves the clock, so changes come between any two of its requests.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from types import SimpleNamespace

import fakeredis
import pytest
import time_machine
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from redis.exceptions import RedisError

from redis_kvpoll import KVPoll, RoomBusyError, StatusStore
from redis_kvpoll.engine.effects import Sleep
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.script_call import Identity
from redis_kvpoll.protocol.settings import ExpectedSettings
from redis_kvpoll.statistics import beside, feed_positions, follow
from redis_kvpoll.statistics.aggregates import Aggregates
from redis_kvpoll.statistics.follow import StatisticsFollower
from redis_kvpoll.statistics.model import ABSENT, CLEARED, EXPIRED, LIVE
from redis_kvpoll.statistics.records import OPENING_SEEN, SINCE_SEEN
from redis_kvpoll.statistics.shard import RESTORED_AFTER_MS
from redis_kvpoll.sync import connect
from tests.support.backup import Backup
from tests.support.internals import feed_positions_of

NS = "default"
START = 1_700_000_000
TTL, TERMINAL_TTL = 900.0, 300.0
ROOMS = st.integers(0, 7)
STATUS = st.sampled_from(KVPoll)
REASON = st.sampled_from(("owner p0 lost", "Aborted by hand.", "timed out after 3 s", "why"))
STUCK_AFTER = 60.0
PAGE = 3


class Machine(RuleBasedStateMachine):
    """Writers, a server with its misfortunes, and the follower."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.clock = time_machine.travel(START, tick=False)
        self.moved = self.clock.start()
        self.now = 1000.0
        for module in (follow, feed_positions, beside):
            self.patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.patch.setattr(follow, "PAGE", PAGE)
        self.patch.setattr(feed_positions, "ENTRIES", 4)
        self.patch.setattr(follow.Scan, "__init__", _scan_of_few_keys(follow.Scan.__init__))
        self.rounds = 0
        self.is_quiet = True
        """Whether nothing was missed: no room was there when the feeds' ends were found, and nothing was lost since."""
        self.session = None
        self.may_trim = False
        """Whether the follower has read an entry of each feed, so that it can notice that one is gone."""

    @initialize(shards=st.sampled_from((1, 2)), feed_length=st.sampled_from((1000, 1000, 0)), lookback=st.booleans())
    def begin(self, shards, feed_length, lookback):
        self.shards, self.feed_length = shards, feed_length
        self.server = fakeredis.FakeServer()
        self.client = fakeredis.FakeRedis(server=self.server)
        self.store = self.make_store()
        self.store.counts()
        self.back_up()
        self.owners = 0
        expected = ExpectedSettings.checked(NS, None, None, None, None, True)
        self.transport = connect.transport_for(self.client, 5.0)
        self.follower = StatisticsFollower(
            Aggregates(NS, STUCK_AFTER, contextlib.nullcontext()),
            expected,
            Identity(ttl_ms="1000", terminal_ttl_ms="1000"),
            self.transport,
            (0.1, 60.0 if lookback else 0.0),
            lambda: True,
            lambda: None,
        )
        self.aggregates = self.follower.aggregates
        ended = self.aggregates.end_round

        def end_round(now):
            ended(now)
            self.rounds += 1

        self.patch.setattr(self.aggregates, "end_round", end_round)

    def make_store(self):
        options = {"shards": self.shards, "feed_length": self.feed_length}
        return StatusStore(self.client, ttl=TTL, terminal_ttl=TERMINAL_TTL, **options)

    def teardown(self):
        self.patch.undo()
        self.clock.stop()

    # Writers

    @rule(room=ROOMS, status=STATUS)
    def update(self, room, status):
        self.store.update_status(room, status)

    @rule(statuses=st.dictionaries(ROOMS, STATUS, max_size=5))
    def update_many(self, statuses):
        self.store.update_many(statuses)

    @rule(room=ROOMS, request=st.sampled_from(("a", "b")))
    def open(self, room, request):
        with contextlib.suppress(RoomBusyError):
            self.store.open(room, request=request)

    @rule(room=ROOMS, reason=REASON)
    def abort(self, room, reason):
        self.store.abort(room, reason)

    @rule(room=ROOMS, reason=REASON)
    def record_failure(self, room, reason):
        self.store.record_failure(room, reason)

    @rule(room=ROOMS)
    def clear(self, room):
        self.store.clear(room)

    @rule(rooms=st.lists(ROOMS, max_size=3))
    def touch(self, rooms):
        self.store.touch(rooms)

    @rule(room=ROOMS)
    def work_under_a_lease(self, room):
        self.owners += 1
        with self.make_store() as store, store.lease(f"p{self.owners % 2}"), contextlib.suppress(RoomBusyError):
            store.open(room, request="c").update(KVPoll.WaitingForInput)

    # The server

    @rule(seconds=st.sampled_from((0.01, 1.0, 30.0, 299.0, 301.0, 901.0)))
    def pass_time(self, seconds):
        self.moved.shift(seconds)
        self.now += seconds

    @rule()
    def back_up(self):
        self.backup, self.backed_up_ms = Backup(self.client), server_ms(self.client)

    @precondition(lambda self: self.session is not None)
    @rule()
    def lose_the_last_changes(self):
        """Another server takes over, which has what there was at the last backup."""
        self.pass_time(0.001)
        self.backup.restore(self.client, server_ms(self.client) - self.backed_up_ms)
        self.is_quiet = self.may_trim = False
        self.cut()

    @precondition(lambda self: self.may_trim or not self.rounds or not self.feed_length)
    @rule()
    def flush(self):
        self.pass_time(0.001)
        self.client.flushall()
        self.make_store().counts()
        self.is_quiet = self.may_trim = False

    @precondition(lambda self: self.may_trim)
    @rule(kept=st.sampled_from((0, 1, 3)))
    def trim_the_feed(self, kept):
        for tag in keys.tags(NS, self.shards):
            self.client.xtrim(keys.feed(tag), maxlen=kept, approximate=False)
        self.is_quiet = False
        self.may_trim = kept > 0

    @rule()
    def cut(self):
        """The connection is lost."""
        if self.session is not None:
            self.session.close()
            self.session = None

    # The follower

    @rule(requests=st.integers(1, 8))
    def go_on(self, requests):
        for _ in range(requests):
            self.step()

    def step(self):
        """One request, or one pause, of the follower."""
        try:
            if self.session is None:
                self.session = self.follower.session()
                self.effect = next(self.session)
            if len(feed_positions_of(self.follower)) < self.shards and any(self.client.scan_iter("kvpoll:*:room:*")):
                self.is_quiet = False
            if isinstance(self.effect, Sleep):
                self.now += self.effect.seconds
                self.moved.shift(self.effect.seconds)
                self.effect = self.session.send(None)
                return
            try:
                reply = self.transport.perform(self.effect)
            except RedisError as error:
                self.effect = self.session.throw(error)
            else:
                self.effect = self.session.send(reply)
        except StopIteration:
            self.session = None

    @rule()
    def look(self):
        """Once the follower has read all, its numbers are those of the table."""
        began, steps = self.rounds, 0
        while self.rounds < began + 2 or not self.aggregates.is_walked or self.is_any_due():
            self.step()
            steps += 1
            assert steps < 5000, self.aggregates.error
        self.may_trim = all(self.client.xlen(keys.feed(tag)) for tag in keys.tags(NS, self.shards))
        self.compare()

    def found(self):
        return {room: record for shard in self.aggregates.shards.values() for room, record in shard.rooms.all()}

    def is_any_due(self):
        """Whether a room has expired that the follower has not asked for yet."""
        return any(0 < record.due_ms <= server_ms(self.client) for record in self.found().values())

    def compare(self):
        found = self.found()
        there = {int(key.rpartition(b":")[2]): key for key in self.client.scan_iter(f"kvpoll:{{{NS}*:room:*")}
        fields = {room: self.client.hgetall(key) for room, key in there.items()}
        statuses = {room: KVPoll[of[b"status"].decode()] for room, of in fields.items() if of}
        assert {room: record.status for room, record in found.items()} == statuses
        for room, record in found.items():
            self.compare_times(room, record, fields[room], self.client.pttl(there[room]))
        snapshot = self.aggregates.snapshot(self.now)
        assert snapshot.counts == {status: list(statuses.values()).count(status) for status in KVPoll}
        live = {room: record for room, record in found.items() if record.status in LIVE}
        for status in LIVE:
            ages = [snapshot.at - record.since_ms / 1000 for record in live.values() if record.status is status]
            assert (snapshot.oldest[status] or 0) == pytest.approx(max(0, *ages, 0), abs=0.002)
            assert snapshot.stuck[status] == sum(age > STUCK_AFTER for age in ages)
        owners = Counter(fields[room].get(b"owner", b"").decode() for room in live)
        for name in ("p0", "p1"):
            assert self.aggregates.owner_rooms(name) == owners[name]
        if self.is_quiet and self.feed_length and not snapshot.gaps:
            self.compare_transitions(snapshot)

    def compare_times(self, room, record, fields, left_ms):
        assert record.due_ms == pytest.approx(server_ms(self.client) + left_ms, abs=2)
        updated_ms = int(fields[b"updated_ms"])
        is_restored = b"replayed" in fields  # its entry has the time at which it was restored
        if record.flags & SINCE_SEEN or not (b"reason" in fields or is_restored):
            # A room that is restored within a second of its opening counts as opened then.
            assert record.since_ms == pytest.approx(updated_ms, abs=2 + is_restored * RESTORED_AFTER_MS), room
        if record.flags & OPENING_SEEN:
            opened = fields.get(b"opened") or fields[b"opened_ms"]
            assert record.opened_ms == pytest.approx(int(opened.partition(b"-")[0]), abs=2)

    def compare_transitions(self, snapshot):
        """What came to a status and has not left it is there."""
        came, left = Counter(), Counter()
        for (before, after), count in snapshot.transitions.items():
            came[after] += count
            left[before] += count
        for status in KVPoll:
            assert came[status.name] - left[status.name] == snapshot.counts[status]
        assert ABSENT not in came
        assert not {CLEARED, EXPIRED} & set(left)
        waiting = sum(len(shard.awaiting) for shard in self.aggregates.shards.values())
        assert sum(snapshot.failures.values()) + waiting == came["Failed"]


def server_ms(client):
    """The server's time."""
    seconds, micros = client.time()
    return seconds * 1000 + micros // 1000


def _scan_of_few_keys(init):
    def begin(self, clustered, tags=None, page=PAGE, is_distinct=True):
        init(self, clustered, tags, PAGE, is_distinct)

    return begin
