"""Marks: what of a store's history a server has, without I/O. tests/protocol/test_survival.py has the script's part."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, Outcome
from redis_kvpoll.engine.recovery import tracking
from redis_kvpoll.engine.recovery.marks import KEPT, Mark, ShardMarks, last_present, mark_of
from redis_kvpoll.engine.recovery.tracked_rooms import SWEEP_EVERY, TrackedRooms
from redis_kvpoll.engine.recovery.tracked_state import TrackedRoom
from redis_kvpoll.protocol import fenced_commands, room_commands
from tests.support.calls_of_scripts import replay
from tests.support.contexts import context

WAIT = b"WaitingForInput"


def mark(number, room=1, value=WAIT):
    return Mark(b"100-%d" % number, room, value)


def entry(number, *words):
    """The reply to XRANGE with the id of one entry."""
    return [[b"100-%d" % number, list(words)]]


def call_of(command):
    (call,) = command.calls(context())
    return call


class TestMark:
    def test_text_is_what_replay_takes(self):
        assert str(mark(7)) == "100-7/1/WaitingForInput"
        assert str(Mark(b"100-7", None, b"")) == "100-7//"

    def test_text_of_a_reply_is_read_back(self):
        assert Mark.parse(b"100-7/1/WaitingForInput") == mark(7)
        assert Mark.parse(b"100-7/by hand/x/y") == Mark(b"100-7", None, b"")
        assert Mark.parse(b"//") is None, "an empty feed has no end"

    def test_ids_are_ordered_as_numbers(self):
        assert Mark(b"9-20", 1, b"").id < Mark(b"10-3", 1, b"").id < Mark(b"10-20", 1, b"").id

    @pytest.mark.parametrize(
        ("fields", "found"),
        {
            "its words": ([b"1", WAIT], True),
            "behind a TTL": ([b"ttl_ms", b"5", b"1", WAIT], True),
            "another room": ([b"2", WAIT], False),
            "another status": ([b"1", b"Success"], False),
            "a later room of the entry": ([b"2", b"Success", b"1", WAIT], True),
            "the status of its rank": ([b"1", b"Bootstrapping", b"rank:0", WAIT], True),
            "the status of another room's rank": ([b"1", b"Success", b"2", b"Success", b"rank:0", WAIT], False),
            "no words": ([], False),
        }.values(),
    )
    def test_entry_with_its_id_needs_its_words(self, fields, found):
        """A server whose clock is behind uses an id again."""
        assert mark(7).is_in(entry(7, *fields)) is found

    def test_opening_is_known_by_its_generation(self):
        opening = Mark(b"100-7", 1, b"55")
        assert opening.is_in(entry(7, b"1", WAIT, b"first", b"55"))
        assert not opening.is_in(entry(7, b"1", WAIT, b"first", b"56"))

    def test_mark_without_room_needs_the_id_alone(self):
        assert Mark(b"100-7", None, b"").is_in(entry(7, b"by", b"hand"))
        assert not Mark(b"100-7", None, b"").is_in([])


class TestLastPresent:
    MARKS = (mark(1), mark(2), mark(3))

    @pytest.mark.parametrize(
        ("there", "first", "last"),
        {
            "all": ([1, 2, 3], b"100-1", 3),
            "a prefix": ([1, 2], b"100-1", 2),
            "none": ([], b"100-1", None),
            "an empty feed": ([], None, None),
            "an id that was used again": ([1, 3], b"100-1", 1),
            "older ones were trimmed": ([3], b"100-3", 3),
            "all were trimmed": ([], b"100-9", None),
            "trimmed, then lost": ([], b"100-2", None),
        }.values(),
    )
    def test_last_of_leading_run_counts(self, there, first, last):
        found = [entry(number, b"1", WAIT) if number in there else [] for number in (1, 2, 3)]
        assert last_present(self.MARKS, found, first) == (mark(last) if last else None)


class TestShardMarks:
    def test_marks_are_in_order_of_ids(self):
        marks = ShardMarks()
        marks.tails += [mark(1), mark(3)]
        marks.last_write = mark(2)
        assert marks.all() == [mark(1), mark(2), mark(3)]

    def test_marks_after_the_last_kept_are_dropped(self):
        """They belong to a branch of the history that this server does not have."""
        marks = ShardMarks()
        marks.tails += [mark(1), mark(2), mark(4)]
        marks.last_write = mark(3)
        marks.keep_until(mark(2))
        assert set(marks.all()) == {mark(1), mark(2)}
        marks.keep_until(None)
        assert marks.all() == []

    def test_number_of_marks_is_bounded(self):
        marks = ShardMarks()
        marks.tails.extend(mark(number) for number in range(3 * KEPT))
        marks.last_write = mark(3 * KEPT)
        assert marks.all() == [mark(number) for number in range(2 * KEPT, 3 * KEPT + 1)]
        marks.keep_until(marks.all()[-1])
        marks.tails.append(mark(3 * KEPT + 1))
        assert len(marks.all()) == KEPT + 1


class TestMarkOf:
    @pytest.mark.parametrize(
        ("command", "reply", "expected"),
        [
            (room_commands.update_many({1: 2, 2: 2}), [1, WAIT, 2, WAIT], (2, WAIT)),
            (room_commands.update_many({1: 2, 2: 2}), [1, WAIT, 3, WAIT], (1, WAIT)),
            (room_commands.update_status(1, 2), [3, WAIT], None),
            (room_commands.clear(1), [7, WAIT, None], (1, b"absent")),
            (room_commands.clear(1), [8, WAIT, None], (1, b"absent")),
            (room_commands.clear(1), [5, None, None], None),
            (room_commands.touch([1]), [1], (None, b"")),
            (fenced_commands.open(1, "rid", 2, 0), [1, WAIT, b"55", b"0", None, b"rid", b"100-7"], (1, WAIT)),
            (replay(1, role="cleared"), [2, None, None], (None, b"")),
        ],
    )
    def test_last_changed_room_is_named(self, command, reply, expected):
        assert mark_of(call_of(command), b"100-7", reply) == (Mark(b"100-7", *expected) if expected else None)


class TestLengths:
    """A decode prefix length has no entry. The end of the feed may be older, so only what is behind that shows it."""

    @pytest.fixture
    def rooms(self):
        """Room 1, opened at mark 1. Then its length was set."""
        rooms = TrackedRooms(60.0, 60.0, False)
        observe_open(rooms, Outcome.CREATED, mark(1))
        set_length = call_of(fenced_commands.set_decode_prefix_len(1, 55, 7))
        tracking.observe(rooms, set_length, [1], None, 0.0)
        return rooms

    @pytest.mark.parametrize(
        ("ends", "kept", "is_lost"),
        {
            "no heartbeat": ([], 1, True),
            "the end is that of before": ([1], 1, True),
            "at two heartbeats": ([1, 1], 1, True),
            "the first end may be older": ([2], 2, True),
            "the second end is kept": ([1, 2], 2, False),
            "the second end is lost": ([1, 2], 1, True),
        }.values(),
    )
    def test_length_is_sent_again_if_it_may_be_lost(self, rooms, ends, kept, is_lost):
        for number in ends:
            rooms.mark_all("ns", mark(number))
        assert is_due(rooms, kept) is is_lost

    def test_status_of_another_is_before_any_end(self, rooms):
        rooms.mark_all("ns", mark(1))
        rooms.mark_all("ns", mark(2))
        attached = call_of(fenced_commands.attach(1))
        tracking.observe(rooms, attached, [b"Transferring", b"55", b"rid", b"7", None], None, 0.0)
        rooms.mark_all("ns", mark(2))
        assert not is_due(rooms, 2)

    def test_write_after_the_length_shows_it(self, rooms):
        update = call_of(fenced_commands.update(1, 55, 3))
        tracking.observe(rooms, update, [2, b"Transferring"], mark(2), 0.0)
        assert not is_due(rooms, 2)

    def test_joining_open_names_an_end(self, rooms):
        """It appends nothing, and names the feed's end."""
        observe_open(rooms, Outcome.UNCHANGED, mark(1))
        assert is_due(rooms, 1)

    def test_replay_that_appends_nothing_names_an_end(self, rooms):
        tracking.observe(rooms, call_of(replay(1, generation=55)), [3, WAIT, b"100-1"], mark(2), 0.0)
        assert is_due(rooms, 2)
        tracking.observe(rooms, call_of(replay(1, generation=55)), [3, WAIT, b"100-1"], mark(2), 0.0)
        rooms.mark_all("ns", mark(3))
        assert not is_due(rooms, 3)


def observe_open(rooms, outcome, mark):
    opened = call_of(fenced_commands.open(1, "rid", 2, 0))
    tracking.observe(rooms, opened, [outcome.value, WAIT, b"55", b"0", None, b"rid", b"100-1"], mark, 0.0)


def is_due(rooms, kept):
    """Whether room 1 is replayed on another server, which has all up to a mark."""
    rooms.server_changed("ns", mark(kept), 0.0)
    return [call.rooms for call in rooms.replays("ns", context(), 0.0)] == [[1]]


def test_rooms_that_are_gone_are_not_kept_as_unmarked():
    """A store without a lease, which attaches one request after the other, never marks them all."""
    rooms = TrackedRooms(60.0, 60.0, False)
    for room in range(5 * SWEEP_EVERY):
        rooms.track("default", room, TrackedRoom(room + 1, "", "attached", KVPoll.Bootstrapping, 0.0), 0.0)
        rooms.unmark("default", room)
        if room >= 10:
            del rooms.in_shard("default")[room - 10]
    assert len(rooms.unmarked["default"]) <= SWEEP_EVERY + 20
    assert rooms.in_shard("default").keys() <= rooms.unmarked["default"].keys()
