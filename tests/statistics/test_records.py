"""The compact records of rooms, compared with plain ones, and what a room costs."""

from __future__ import annotations

import tracemalloc
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll import KVPoll
from redis_kvpoll.statistics.model import LIVE
from redis_kvpoll.statistics.records import EXPIRING_MS, Record, Rooms
from tests.support.fuzzing import examples

START = 1_700_000_000_000
MS = st.integers(START, START + 200_000)
RECORD = st.builds(
    Record,
    status=st.sampled_from(KVPoll),
    since_ms=MS,
    opened_ms=st.integers(START - 5_000, START),
    due_ms=st.just(0) | st.integers(START + 200_001, START + 900_000),
    owner=st.integers(0, 2),
    flags=st.just(0),
)
STEPS = st.lists(st.tuples(st.integers(0, 5), RECORD | st.none()), max_size=40)
MAX_BYTES = 200


def plainly(steps):
    rooms = {}
    for room, record in steps:
        if record is None:
            rooms.pop(room, None)
        else:
            rooms[room] = record
    return rooms


def applied(steps):
    owners = Counter()
    rooms = Rooms(owners)
    for room, record in steps:
        if record is None:
            rooms.drop(room)
        else:
            rooms.put(room, record)
    return rooms, owners


@examples(100)
@given(steps=STEPS, before_ms=MS)
def test_numbers_are_those_of_plain_records(steps, before_ms):
    plain, (rooms, owners) = plainly(steps), applied(steps)
    assert {room: record._replace(flags=0) for room, record in rooms.all()} == plain
    assert rooms.counts == [sum(r.status is status for r in plain.values()) for status in KVPoll]
    for status in LIVE:
        since = sorted(r.since_ms for r in plain.values() if r.status is status)
        assert rooms.oldest_ms(status) == (since[0] if since else None)
        assert rooms.stuck(status, before_ms) == sum(ms < before_ms for ms in since)
        listed = [record.since_ms for _, record in rooms.oldest_first(status, before_ms)]
        assert listed == [ms for ms in since if ms < before_ms]
    live = [r for r in plain.values() if r.status in LIVE]
    assert +owners == Counter(r.owner for r in live if r.owner)
    last = (before_ms + EXPIRING_MS) // 1000
    assert rooms.expiring(before_ms) == sum(r.due_ms > 0 and r.due_ms // 1000 <= last for r in live)


@examples(50)
@given(steps=STEPS)
def test_room_is_due_once_its_ttl_has_ended(steps):
    plain, (rooms, _) = plainly(steps), applied(steps)
    for now_ms in range(START + 200_000, START + 910_000, 50_000):
        due = {room for room, record in plain.items() if 0 < record.due_ms <= now_ms - 1000}
        found = set(rooms.due(now_ms, 1000))
        assert due <= found <= {room for room, record in plain.items() if 0 < record.due_ms <= now_ms}
        for room in found:
            rooms.drop(room)
            del plain[room]


FAR_MS = st.integers(-(2**63), 2**64) | MS
FAR_RECORD = st.builds(
    Record,
    st.sampled_from(LIVE),
    since_ms=FAR_MS,
    opened_ms=FAR_MS,
    due_ms=st.just(0) | FAR_MS,
    owner=st.just(1),
    flags=st.just(0),
)


@examples(100)
@given(records=st.lists(FAR_RECORD, min_size=1, max_size=20))
def test_times_that_no_store_writes_leave_no_trace(records):
    """A TTL of a century, or an entry of the feed by hand: each room leaves what it was counted in."""
    rooms, owners = applied(enumerate(records))
    for record in reversed(records):
        rooms.put(0, record)
    assert all(rooms.oldest_ms(status) is not None for status in LIVE if rooms.counts[status])
    assert set(rooms.due(2**64, len(records))) <= set(range(len(records)))
    for room in range(len(records)):
        rooms.drop(room)
    assert (rooms.counts, +owners, rooms.expiring(2**64)) == ([0] * len(KVPoll), Counter(), 0)
    assert [rooms.oldest_ms(status) for status in LIVE] == [None] * len(LIVE)


def test_shorter_ttl_is_noticed_at_its_end():
    rooms = Rooms(Counter())
    for left_ms in (900_000, 5000):
        rooms.put(1, Record(KVPoll.Success, START, START, START + left_ms))
    assert rooms.due(START + 7000, 10) == [1]


def test_due_room_without_an_answer_is_due_again():
    rooms = Rooms(Counter())
    rooms.put(1, Record(KVPoll.Success, START, START, START + 1000))
    assert rooms.due(START + 2000, 10) == [1]
    assert rooms.due(START + 3000, 10) == []
    assert rooms.due(START + 9000, 10) == [1]


def test_walk_drops_what_it_does_not_meet():
    rooms = Rooms(Counter())
    for room in (1, 2):
        rooms.put(room, Record(KVPoll.Success, START, START, 0))
    rooms.begin_walk()
    assert not rooms.is_confirmed(rooms.get(1))
    rooms.put(1, rooms.get(1))
    assert rooms.is_confirmed(rooms.get(1))
    rooms.end_walk()
    assert [room for room, _ in rooms.all()] == [1]


def test_walk_that_was_broken_off_confirms_nothing():
    rooms = Rooms(Counter())
    for room in (1, 2, 3):
        rooms.put(room, Record(KVPoll.Success, START, START, 0))
    for room in (1, 2):
        rooms.begin_walk()
        rooms.put(room, rooms.get(room))
    rooms.begin_walk()
    assert not any(rooms.is_confirmed(record) for _, record in rooms.all())
    rooms.put(3, rooms.get(3))
    rooms.end_walk()
    assert [room for room, _ in rooms.all()] == [3]


def test_room_takes_at_most_200_bytes():
    """At 30,000 rooms, each of which has gone through its live statuses."""
    count = 30_000
    tracemalloc.start()
    try:
        rooms = Rooms(Counter())
        for step, status in enumerate(LIVE):
            for at in range(count):
                since_ms = START + at + step * 1000
                rooms.put(2**62 + at * 7919, Record(status, since_ms, START + at, since_ms + 900_000, 1))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rooms) == count
    assert used / count <= MAX_BYTES
