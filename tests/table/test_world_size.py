"""A room has one world size, or none: a store with another is refused."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, Outcome, WorldSizeMismatchError
from tests.support.feeds import words
from tests.support.servers import room_keys

BOOT, INPUT, MOVE, DONE, FAIL = (KVPoll(number) for number in (1, 2, 3, 4, 0))
ROOM = 2**63 - 1
KEY, PREFIX = f"kvpoll:{{default}}:room:{ROOM}", f"kvpoll:{{default}}:prefix:{ROOM}"


class TestWorldSize:
    @pytest.mark.parametrize("mode", ["none", "prefill"])
    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            ({}, {"rank": 0, "world_size": 2}),
            ({"rank": 0, "world_size": 2}, {}),
            ({"rank": 0, "world_size": 2}, {"rank": 0, "world_size": 3}),
            ({"rank": 2, "world_size": 3}, {"rank": 0, "world_size": 2}),
        ],
    )
    def test_other_world_size_is_refused_and_writes_nothing(self, make_store, client, theirs, ours, mode):
        there, here = make_store(mode=mode, **theirs), make_store(mode=mode, **ours)
        there.update_status(ROOM, INPUT)
        for store in (there, here):
            store.set_decode_prefix_len(ROOM, 7)
        before, feed = room_keys(client), words(client)
        for status in (MOVE, DONE, FAIL):
            with pytest.raises(WorldSizeMismatchError, match=rf"^update_status: room {ROOM} has ") as caught:
                here.update_status(ROOM, status)
            assert caught.value.theirs == str(theirs.get("world_size", 0))
            ours_shown = f"world_size={ours['world_size']}" if ours else "no ranks"
            assert f", but this store has {ours_shown}; " in str(caught.value)
        assert (room_keys(client), words(client)) == (before, feed)

    def test_mismatch_in_batch_names_the_room(self, store, make_store):
        ranked = make_store(rank=0, world_size=2)
        ranked.update_status(5, BOOT)
        with pytest.raises(WorldSizeMismatchError, match=r"^update_many: room 5 has world_size=2"):
            store.update_many({4: MOVE, 5: MOVE, 6: MOVE})
        assert store.poll([4, 5, 6]) == [MOVE, BOOT, MOVE], "each room is its own step"

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [({}, {"rank": 0, "world_size": 2}), ({"rank": 0, "world_size": 2}, {"rank": 0, "world_size": 3})],
    )
    def test_other_world_size_clears_only_without_handle(self, make_store, client, theirs, ours):
        there, here = make_store(**theirs), make_store(**ours)
        held = there.open(ROOM, request="rid", status=INPUT)
        held.set_decode_prefix_len(7)
        before, feed = room_keys(client), words(client)
        room = here.attach(ROOM)
        with pytest.raises(WorldSizeMismatchError, match=rf"^clear: room {ROOM} has ") as caught:
            room.clear()
        assert caught.value.theirs == str(theirs.get("world_size", 0))
        assert (room_keys(client), words(client)) == (before, feed)
        assert held.update(MOVE).outcome is Outcome.ADVANCED
        make_store().attach(ROOM).clear()
        assert not room_keys(client), "a store without a rank clears the whole room"

    def test_calls_for_operators_take_any_world_size(self, ranks, make_store):
        first, second = ranks(2)
        for one in (first, second):
            one.update_status(ROOM, MOVE)
        other = make_store(rank=0, world_size=3)
        assert other.touch([ROOM]) == 1
        assert other.abort(ROOM).outcome is Outcome.FAILED
        assert first.collect(ROOM) == {0: FAIL, 1: FAIL}
        assert other.clear(ROOM) is FAIL
        assert (first.get(ROOM), second.get(ROOM)) == (None, FAIL)

    def test_store_without_rank_works_on_whole_room(self, ranks, store, client):
        first, second = ranks(2)
        for one in (first, second):
            one.update_status(ROOM, MOVE)
        client.pexpire(KEY, 100_000)
        assert store.touch([ROOM]) == 1
        assert client.pttl(KEY) > 100_000
        assert store.get(ROOM) is MOVE
        assert store.abort(ROOM).outcome is Outcome.FAILED
        assert first.collect(ROOM) == {0: FAIL, 1: FAIL}
        assert store.clear(ROOM) is FAIL
        assert not client.exists(KEY)
