"""The follower of failures with replies by hand, and every interleaving of a few writers with its reads."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll.engine.effects import Send, Sleep
from redis_kvpoll.model import RoomFailure
from redis_kvpoll.protocol.failures import of_rooms, parse_entry
from redis_kvpoll.protocol.feed_ids import number_of
from redis_kvpoll.replica.continuity import LOOK_INTERVAL
from redis_kvpoll.replica.failures import (
    HEARTBEAT,
    MAX_REMEMBERED,
    REMEMBER_SECONDS,
    STALE_AFTER,
    FailureFollower,
    FailureLog,
)
from redis_kvpoll.replica.session import MustResyncError
from tests.support.contexts import context
from tests.support.fuzzing import examples
from tests.support.internals import failures_session


class Server:
    """The stream and the rooms of one server, as the scripts would leave them."""

    def __init__(self):
        self.rooms, self.stream, self.last, self.generation = {}, [(b"1-0", [b"begun", b"failures"])], 1, 100

    def open(self, room):
        self.last, self.generation = self.last + 1, self.generation + 1
        self.rooms[room] = [b"Bootstrapping", b"%d" % self.generation, b"rid", None, None, None]
        return self.generation

    def abort(self, room):
        self.last += 1
        if room in self.rooms:
            fields = self.rooms[room]
            fields[0], fields[5] = b"Failed", b"why"
            words = [b"%d" % room, fields[1], b"request", b"rid", b"reason", b"why", b"origin", b"operator"]
            self.stream.append((b"%d-0" % self.last, words))

    def clear(self, room):
        self.last += 1
        self.rooms.pop(room, None)

    def lose(self):
        """All data is lost."""
        self.last += 1
        self.rooms, self.stream = {}, [(b"%d-0" % self.last, [b"begun", b"failures"])]

    def trim(self):
        self.stream = self.stream[-1:]

    def answer(self, words):
        if words[0] == "XREAD":
            after = number_of(words[-1].encode())
            entries = [entry for entry in self.stream if number_of(entry[0]) > after]
            return [[words[-2].encode(), entries]] if entries else None
        if words[0] in ("XRANGE", "XREVRANGE"):
            return [entry for entry in self.stream if entry[0] == words[2].encode()]
        rooms = [int(word.rpartition(":")[2]) for word in words if ":room:" in word]
        found = [field for room in rooms for field in self.rooms.get(room, [None] * 6)]
        return [self.stream[-1][0], *found]


class Host:
    def __init__(self, log):
        self.log, self.told = log, []

    def notify(self):
        while self.log.news:
            self.told.append(self.log.news.popleft())

    def progressed(self):
        pass


class Follower:
    """A follower driven one request at a time. Its connection may be lost between two."""

    def __init__(self, server, held):
        self.server, self.held = server, held
        self.log = FailureLog(context(feed_length="100000"), lambda: list(self.held), contextlib.nullcontext())
        self.host = Host(self.log)
        self.follower = FailureFollower(self.log, ["ns"], self.host, 5.0, True)
        self.sent = []
        self.connect()

    def connect(self):
        """A new session."""
        self.flow = failures_session(self.follower)
        self.effect = next(self.flow)

    def step(self):
        """One request and its reply. The session ends by itself when it must catch up."""
        while isinstance(self.effect, Sleep):
            self.effect = self.flow.send(None)
        assert isinstance(self.effect, Send)
        self.sent.append(self.effect.words)
        replies = [self.server.answer(words) for words in (self.effect.words, *self.effect.then)]
        try:
            self.effect = self.flow.send(replies if self.effect.then else replies[0])
        except MustResyncError:
            self.connect()

    def settle(self, now):
        """Read until nothing is new and the last proof is of now."""
        for _ in range(12):
            now[0] += 3.0
            self.step()


@pytest.fixture
def now(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("redis_kvpoll.replica.failures.time.monotonic", lambda: now[0])
    return now


def believed(follower, room, generation):
    """What a process that holds a generation makes of what it is told."""
    return [found for found in follower.host.told if (found.room, found.generation) == (room, generation)]


ACTIONS = ("abort", "clear", "open", "read", "cut", "trim", "lose")


class TestInterleavings:
    @pytest.mark.parametrize("first", ACTIONS)
    def test_only_failures_of_a_held_generation_are_believed(self, first, now):
        """Every order of seven steps: a generation is failed if it was aborted while held, and never otherwise."""
        for rest in itertools.product(ACTIONS, repeat=4):
            now[0] = 1000.0
            server, held = Server(), set()
            follower = Follower(server, held)
            follower.settle(now)
            held.add(7)
            mine, aborted, was_lost = server.open(7), set(), False
            for action in (first, *rest):
                if action == "abort":
                    if 7 in server.rooms:
                        aborted.add(int(server.rooms[7][1]))
                    server.abort(7)
                elif action == "open":
                    if server.rooms.get(7, [b"Failed"])[0] == b"Failed":
                        mine = server.open(7)
                elif action == "clear":
                    server.clear(7)
                elif action == "read":
                    follower.step()
                elif action == "cut":
                    follower.connect()
                else:
                    getattr(server, action)()
                    was_lost = True
            follower.settle(now)
            order = (first, *rest)
            assert bool(believed(follower, 7, mine)) <= (mine in aborted), order
            if not was_lost:
                assert bool(believed(follower, 7, mine)) == (mine in aborted), order
            elif 7 in server.rooms and server.rooms[7][0] == b"Failed":
                assert believed(follower, 7, int(server.rooms[7][1])), order
            assert follower.log.is_synced(now[0]), order


class TestSessions:
    def test_lost_connection_reads_no_room(self, now):
        server = Server()
        server.open(7)
        follower = Follower(server, {7})
        follower.settle(now)
        follower.sent.clear()
        follower.connect()
        server.abort(7)
        follower.settle(now)
        assert {words[0] for words in follower.sent} == {"XRANGE", "XREAD"}
        assert [found.reason for found in follower.host.told] == ["why"]

    def test_other_words_at_the_position_read_the_rooms(self, now):
        server = Server()
        follower = Follower(server, {7})
        follower.settle(now)
        server.open(7)
        server.rooms[7][0] = b"Failed"
        server.stream[-1] = server.stream[-1][0], [b"another", b"history"]
        follower.connect()
        follower.settle(now)
        assert [found.room for found in follower.host.told] == [7]

    def test_lag_after_a_failure_is_a_heartbeat_and_a_look(self, now):
        server = Server()
        server.open(7)
        follower = Follower(server, {7})
        follower.settle(now)
        server.abort(7)
        now[0] += 0.1
        follower.step()
        for _ in range(4):
            words = follower.effect.words
            now[0] += int(words[words.index("BLOCK") + 1]) / 1000
            assert follower.log.lag(now[0]) <= HEARTBEAT + LOOK_INTERVAL
            follower.step()

    def test_log_is_stale_without_proof(self, now):
        follower = Follower(Server(), {7})
        follower.settle(now)
        assert follower.log.is_synced(now[0])
        assert not follower.log.is_synced(now[0] + STALE_AFTER + 3)

    def test_failures_of_rooms_no_longer_held_are_forgotten(self, now):
        server, held = Server(), {7}
        server.open(7)
        follower = Follower(server, held)
        server.abort(7)
        follower.settle(now)
        assert 7 in follower.log.latest
        held.clear()
        follower.settle(now)
        assert not follower.log.latest


class TestRemembered:
    """Since when a process that says late what it holds hears of each failure."""

    def test_session_that_starts_afresh_knows_nothing_before(self, now):
        server = Server()
        follower = Follower(server, set())
        follower.settle(now)
        began = follower.log.complete_since
        follower.connect()
        follower.settle(now)
        assert follower.log.complete_since == began
        server.lose()
        lost_at = now[0]
        follower.connect()
        follower.settle(now)
        assert follower.log.complete_since > lost_at

    def test_failure_is_forgotten_knowingly(self, now):
        log = FailureLog(context(), lambda: [7], contextlib.nullcontext())
        for room, now[0] in ((7, 1000.0), (8, 1005.0)):
            log.deliver([RoomFailure(room, 1)])
        assert (list(log.recent), log.complete_since) == ([7, 8], float("-inf"))
        now[0] += REMEMBER_SECONDS - 1
        log.deliver([RoomFailure(9, 1)])
        assert (list(log.recent), log.complete_since) == ([8, 9], 1000.0)


def test_room_opened_while_the_held_ones_are_listed_is_kept():
    """The list lacks it, though its failure is known: the open was told of it."""
    told = RoomFailure(7, 102)

    def rooms():
        held = [8]
        log.opened([told])
        return held

    log = FailureLog(context(), rooms, threading.RLock())
    for before in ({}, {7: RoomFailure(7, 101)}):
        log.latest.clear()
        log.latest.update(before)
        log.deliver([RoomFailure(8, 1)])
        assert log.latest.get(7) is told


PIECES = (b"7", b"07", b"8", b"", b"0", b"101", b"0101", b"101 ", b"9" * 5000, b"18446744073709551616", b"begun")
NAMES = (b"request", b"owner", b"by", b"reason", b"origin")
JUNK = st.lists(st.tuples(*[st.sampled_from(PIECES + NAMES) | st.binary(max_size=4)] * 2), min_size=1, max_size=8)


def words_of(pairs):
    return [word for pair in pairs for word in pair]


class TestJunk:
    """Entries that were made by hand: none raises, and none fails the generation of a room that did not fail."""

    @given(pairs=JUNK)
    @examples(300)
    def test_entry_tells_only_what_it_says_in_the_scripts_words(self, pairs):
        told = [(found.room, found.generation) for found in parse_entry(words_of(pairs))]
        assert told == [
            (int(name), int(value or b"0"))
            for name, value in pairs
            if name.isdigit() and str(int(name[:20])).encode() == name and int(name) < 2**64
            if value == b"" or (value.isdigit() and value[:1] != b"0" and len(value) <= 16)
        ]

    @given(steps=st.lists(JUNK | st.sampled_from(("abort", "clear", "open", "read", "cut")), max_size=12))
    @examples(150)
    def test_follower_tells_what_failed_and_nothing_else(self, steps):
        """Among changes as the scripts make them."""
        now = [1000.0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("redis_kvpoll.replica.failures.time.monotonic", lambda: now[0])
            server = Server()
            follower = Follower(server, {7})
            follower.settle(now)
            server.open(7)
            failed, opened = set(), {server.generation}
            for step in steps:
                if step == "abort" and 7 in server.rooms:
                    failed.add(int(server.rooms[7][1]))
                    server.abort(7)
                elif step == "open" and 7 not in server.rooms:
                    opened.add(server.open(7))
                elif step == "clear":
                    server.clear(7)
                elif step == "read":
                    follower.step()
                elif step == "cut":
                    follower.connect()
                elif isinstance(step, list):
                    pairs = [(name, value) for name, value in step if name != b"7" or value != b"101"]
                    server.last += 1
                    server.stream.append((b"%d-0" % server.last, words_of(pairs) or [b"x", b"y"]))
            follower.settle(now)
            assert {found.generation for found in follower.host.told if found.room == 7} & opened == failed
            assert follower.log.is_synced(now[0])

    @pytest.mark.parametrize("generation", [b"0101", b"101 ", b"+101", b"1" * 17, b"-1", b"0"])
    def test_other_form_of_a_generation_is_no_failure(self, generation):
        assert parse_entry([b"7", generation, b"reason", b"junk"]) == []


class TestEntries:
    def test_junk_is_skipped(self):
        words = [
            b"x",
            b"y",
            b"007",
            b"5",
            b"reason",
            b"a",
            b"7",
            b"abc",
            b"reason",
            b"b",
            b"9" * 5000,
            b"5",
            b"8",
            b"5",
        ]
        words += [b"reason", b"\xff", b"by", b"", b"unknown", b"c", b"odd"]
        assert [found[:2] for found in parse_entry(words)] == [(8, 5)]
        assert parse_entry(words)[0].reason == "\ufffd"

    def test_absent_and_live_rooms_are_no_failures(self):
        reply = [None] * 6 + [b"Success", b"5", *[None] * 4] + [b"Failed", b"6", b"rid", b"owner", b"who", b"why"]
        assert [found.room for found in of_rooms([1, 2, 3], reply)] == [3]
        assert of_rooms([3], reply[-6:])[0][1:6] == (6, "rid", "owner", "who", "why")


def test_followers_in_many_threads_remember_failures(request):
    """On a cluster each shard has a follower; they share what is remembered."""
    interval = sys.getswitchinterval()
    request.addfinalizer(lambda: sys.setswitchinterval(interval))
    sys.setswitchinterval(1e-6)
    log = FailureLog(context(), list, threading.RLock())

    def deliver(first):
        for room in range(first, 2 * MAX_REMEMBERED, 8):
            log.deliver([RoomFailure(room, 1)])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(deliver, range(8)))
    assert len(log.recent) == MAX_REMEMBERED
