"""Lists of rooms by the age of their status: the order of all, sorted; and as of when ages are."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol.settings import Settings
from redis_kvpoll.statistics.aggregates import Aggregates
from redis_kvpoll.statistics.model import LIVE
from tests.support.fuzzing import examples

NOW = 1_700_000_000_000
OWNERS = ("", "p0", "p1")
ROOM = st.tuples(st.sampled_from(KVPoll), st.integers(0, 3), st.sampled_from(OWNERS))
ROOMS = st.dictionaries(st.integers(0, 40), ROOM, max_size=30)


def made_of(rooms, feed_length=1000):
    """Aggregates of two shards with these rooms; several changed in the same millisecond."""
    aggregates = Aggregates("prod", 60.0, contextlib.nullcontext())
    aggregates.begin(Settings("compat", 2, "none", feed_length))
    aggregates.server_time(NOW, 0.0)
    shards = list(aggregates.shards.values())
    for room, (status, age, owner) in rooms.items():
        words = ["ttl_ms", 900_000, room, status.name, "first", "", *(["owner", owner] if owner else [])]
        shards[room % 2].entry(b"%d-0" % (NOW - age * 1000), [str(word).encode() for word in words])
    return aggregates


@examples(200)
@given(
    rooms=ROOMS,
    statuses=st.lists(st.sampled_from(KVPoll)),
    longer_than=st.sampled_from((0.0, 0.5, 2.0)),
    owner=st.sampled_from((None, "p0", "nobody")),
    limit=st.integers(0, 35),
)
def test_rows_are_the_first_of_all_sorted_rooms(rooms, statuses, longer_than, owner, limit):
    """Rooms that changed at the same time come in the order of their shards and statuses, as in a stable sort."""
    aggregates = made_of(rooms)
    every = [
        (record.since_ms, room, rooms[room][2])
        for shard in aggregates.shards.values()
        for status in set(statuses)
        for room, record in (shard.rooms.oldest_first(status, NOW + 1) if status in LIVE else shard.rooms.all())
        if record.status is status and (not longer_than or record.since_ms < NOW - longer_than * 1000)
    ]
    ordered = [room for _, room, of in sorted(every, key=lambda each: each[0]) if owner in (None, of)]
    assert [row.room for row in aggregates.rows(0.0, statuses, longer_than, owner, limit)] == ordered[:limit]


@examples(100)
@given(rooms=ROOMS, status=st.sampled_from(KVPoll), limit=st.integers(0, 35))
def test_latest_rows_are_the_last_of_all_sorted_rooms(rooms, status, limit):
    aggregates = made_of(rooms)
    every = [
        (record.since_ms, room)
        for shard in aggregates.shards.values()
        for room, record in shard.rooms.all()
        if record.status is status
    ]
    ordered = [room for _, room in sorted(every, key=lambda each: each[0], reverse=True)]
    assert [row.room for row in aggregates.latest(0.0, status, limit)] == ordered[:limit]


@pytest.mark.parametrize("feed_length", [0, 1000])
def test_lag_counts_from_the_time_of_the_snapshot(feed_length):
    """Without a feed, a walk begins a minute after the last one: ages must not have that minute twice."""
    aggregates = made_of({}, feed_length)
    for shard in aggregates.shards.values():
        shard.begin_walk()
        shard.end_walk()
    aggregates.is_connected = True
    assert not aggregates.snapshot(0.5).synced  # else its lag would be infinite
    aggregates.end_round(1.0)
    aggregates.server_time(NOW + 3_000, 3.0)
    snapshot = aggregates.snapshot(4.0)
    assert (snapshot.synced, snapshot.at + snapshot.lag_seconds) == (True, NOW / 1000 + 4.0)
