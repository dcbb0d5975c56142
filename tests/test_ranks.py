"""What the ranks of a request see of its room, and what they agree on, one case at a time."""

from __future__ import annotations

import contextlib

import pytest

from redis_kvpoll import (
    Consensus,
    InvalidInputError,
    KVPoll,
    KVTransferError,
    Outcome,
    StatusStore,
    Update,
    WorldSizeMismatchError,
)
from tests.feeds import words

BOOT, INPUT, MOVE, DONE, FAIL = (KVPoll(number) for number in (1, 2, 3, 4, 0))
ROOM = 2**63 - 1
KEY, PREFIX = f"kvpoll:{{default}}:room:{ROOM}", f"kvpoll:{{default}}:prefix:{ROOM}"


@pytest.fixture
def ranks(make_store):
    """Makes the stores of all ranks."""

    def make(world_size, **options):
        return [make_store(rank=rank, world_size=world_size, **options) for rank in range(world_size)]

    return make


def keys_of(client):
    """All rooms and lengths, with their fields."""
    return {name: client.hgetall(name) for name in client.scan_iter("kvpoll:*:[rp]*:*")}


class TestConsensus:
    @pytest.mark.parametrize(
        ("said", "agreed"),
        [
            ([], None),
            ([BOOT], BOOT),
            ([DONE], BOOT),
            ([DONE, DONE], BOOT),
            ([DONE, DONE, DONE], DONE),
            ([DONE, INPUT, MOVE], INPUT),
            ([MOVE, DONE, MOVE], MOVE),
            ([BOOT, DONE, DONE], BOOT),
            ([DONE, FAIL], FAIL),
            ([FAIL], FAIL),
            ([DONE, DONE, FAIL], FAIL),
            ([FAIL, FAIL, FAIL], FAIL),
        ],
    )
    def test_any_failed_then_any_missing_then_the_lowest(self, ranks, make_store, said, agreed):
        stores = ranks(3)
        for store in stores[: len(said)]:
            store.update_status(ROOM, BOOT)
        for store, status in zip(stores, said, strict=False):
            store.update_status(ROOM, status)
        for store in (*stores, make_store()):
            assert [found.status for found in store.consensus([ROOM])] == [agreed]
            assert store.collect(ROOM) == dict(enumerate(said))
            assert store.counts() == {status: int(status is agreed) for status in KVPoll}
            assert [list(store.rooms(status)) for status in KVPoll] == [[ROOM] * (s is agreed) for s in KVPoll]

    def test_it_never_goes_back_while_one_after_the_other_clears(self, ranks, make_store, client):
        stores, looker = ranks(3), make_store()
        for store in stores:
            store.update_status(ROOM, MOVE)
        stores[0].update_status(ROOM, DONE)
        for store in stores:
            store.update_status(ROOM, DONE)
        for at, store in enumerate(stores):
            assert looker.consensus([ROOM])[0].status is DONE
            assert [store.get(ROOM) for store in stores] == [None] * at + [DONE] * (3 - at)
            assert client.exists(KEY)
            assert store.clear(ROOM) is DONE
        assert not client.exists(KEY)
        assert looker.consensus([ROOM]) == [Consensus(None, 0, 0)]

    def test_a_missing_rank_keeps_it_at_bootstrapping_though_others_clear(self, ranks):
        first, second, third = ranks(3)
        for store in (first, second):
            store.update_status(ROOM, DONE)
        first.clear(ROOM)
        assert second.consensus([ROOM])[0].status is BOOT
        third.update_status(ROOM, DONE)
        assert second.consensus([ROOM])[0].status is DONE

    def test_of_two_the_later_has_the_higher_number(self, ranks):
        stores, seen = ranks(2), []
        for _ in range(3):
            for status in (BOOT, MOVE, DONE):
                for store in stores:
                    store.update_status(ROOM, status)
                    seen.append(store.consensus([ROOM])[0][1:])
            stores[0].abort(ROOM)
            seen.append(store.consensus([ROOM])[0][1:])
            for store in stores:
                store.clear(ROOM)
        assert seen == sorted(set(seen))

    def test_a_thousand_rooms_are_one_call_a_shard(self, server, ranks, client):
        if server.is_fake:
            pytest.skip("fakeredis has no INFO, and so does not count")
        store, other = ranks(2, shards=2)
        rooms = range(1000)
        for each in (store, other):
            each.update_many(dict.fromkeys(rooms, BOOT))
        store.update_many(dict.fromkeys(rooms, DONE))
        other.update_many(dict.fromkeys(rooms[::2], MOVE))
        found = store.consensus(rooms)  # the script is known from now on
        client.config_resetstat()
        assert store.consensus(rooms) == found
        calls = {name: stats["calls"] for name, stats in client.info("commandstats").items() if "eval" in name}
        assert calls == {"cmdstat_evalsha": 2}
        assert [status for status, *_ in found] == [MOVE, BOOT] * 500

    def test_a_room_without_ranks_agrees_with_itself(self, store):
        store.update_status(ROOM, MOVE)
        status, generation, version = store.consensus([ROOM])[0]
        assert (status, version) == (MOVE, 0)
        assert generation > 10**15
        assert store.collect(ROOM) == {}

    def test_a_status_made_by_hand_is_heard_of_and_no_more(self, ranks, client):
        first, _ = ranks(2)
        first.update_status(ROOM, DONE)
        client.hset(KEY, "status:1", "Banana")
        assert first.update_status(ROOM, FAIL) == Update(Outcome.FAILED, FAIL)
        assert first.collect(ROOM) == {0: FAIL}


class TestOneRank:
    def test_existence_is_ones_own(self, ranks):
        first, second = ranks(2)
        first.update_status(ROOM, MOVE)
        assert second.get(ROOM) is None
        assert second.update_status(ROOM, FAIL) == Update(Outcome.SKIPPED, None)
        assert second.update_status(ROOM, BOOT) == Update(Outcome.CREATED, BOOT)
        assert first.poll([ROOM]) == [MOVE]

    def test_any_ranks_failure_is_everybodys(self, ranks):
        first, second, third = ranks(3)
        for store in (first, second):
            store.update_status(ROOM, MOVE)
        assert first.update_status(ROOM, FAIL).outcome is Outcome.FAILED
        assert [store.get(ROOM) for store in (first, second, third)] == [FAIL] * 3
        assert second.collect(ROOM) == {0: FAIL, 1: MOVE}
        assert second.entry(ROOM).failed_by == "rank 0"

    def test_abort_fails_every_rank_and_the_unseen_is_born_failed(self, ranks):
        first, second, third = ranks(3)
        for store in (first, second):
            store.update_status(ROOM, MOVE)
        assert third.abort(ROOM, "why") == Update(Outcome.FAILED, FAIL)
        assert first.collect(ROOM) == {0: FAIL, 1: FAIL}
        assert third.update_status(ROOM, FAIL) == Update(Outcome.SKIPPED, FAIL)
        assert third.update_status(ROOM, INPUT) == Update(Outcome.FAILED, FAIL)
        entry = first.entry(ROOM)
        assert (entry.ranks, entry.reason, entry.failed_by) == ({0: FAIL, 1: FAIL, 2: FAIL}, "why", "rank 2")

    def test_born_failed_is_not_who_failed_it(self, ranks, store):
        first, second = ranks(2)
        first.update_status(ROOM, MOVE)
        store.abort(ROOM, "by hand")
        second.update_status(ROOM, BOOT)
        assert first.entry(ROOM).failed_by is None

    def test_who_has_cleared_sees_nothing_and_comes_too_late(self, ranks, client):
        first, second = ranks(2)
        for store in (first, second):
            store.update_status(ROOM, MOVE)
        assert first.clear(ROOM) is MOVE
        before = keys_of(client)
        for status in KVPoll:
            assert first.update_status(ROOM, status) == Update(Outcome.SKIPPED, None)
        assert first.abort(ROOM) == Update(Outcome.SKIPPED, None)
        assert first.clear(ROOM) is None
        assert first.get(ROOM) is None
        assert keys_of(client) == before
        second.abort(ROOM)
        assert (first.get(ROOM), second.get(ROOM)) == (None, FAIL)

    def test_who_saw_a_failure_before_it_spoke_can_clear_it(self, ranks, client):
        first, second, third = ranks(3)
        first.update_status(ROOM, MOVE)
        assert second.clear(ROOM) is None
        assert second.entry(ROOM).cleared == frozenset()
        first.abort(ROOM, "why")
        with pytest.raises(KVTransferError, match="why"):
            second.failure_exception(ROOM)
        assert (first.get(ROOM), second.get(ROOM), third.get(ROOM)) == (FAIL, None, FAIL)
        assert second.update_status(ROOM, BOOT) == Update(Outcome.SKIPPED, None)
        assert first.clear(ROOM) is FAIL
        assert not client.exists(KEY)

    def test_the_last_to_clear_frees_the_room_for_the_next(self, ranks):
        first, second = ranks(2)
        for store in (first, second):
            store.update_status(ROOM, DONE)
        first.clear(ROOM)
        before = second.consensus([ROOM])[0].generation
        second.clear_many([ROOM])
        assert first.update_status(ROOM, BOOT) == Update(Outcome.CREATED, BOOT)
        assert second.consensus([ROOM])[0].generation > before

    def test_the_wrong_ranks_are_refused_before_anything_is_sent(self, make_store):
        for wrong in ({"rank": 0}, {"world_size": 2}, {"rank": 2, "world_size": 2}, {"rank": -1, "world_size": 2}):
            with pytest.raises(InvalidInputError, match="rank"):
                make_store(**wrong)


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
    def test_another_is_refused_and_nothing_is_written(self, make_store, client, theirs, ours, mode):
        there, here = make_store(mode=mode, **theirs), make_store(mode=mode, **ours)
        there.update_status(ROOM, INPUT)
        for store in (there, here):
            store.set_decode_prefix_len(ROOM, 7)
        before, feed = keys_of(client), words(client)
        for status in (MOVE, DONE, FAIL):
            with pytest.raises(WorldSizeMismatchError, match=rf"^update_status: room {ROOM} has ") as caught:
                here.update_status(ROOM, status)
            assert caught.value.theirs == str(theirs.get("world_size", 0))
        assert (keys_of(client), words(client)) == (before, feed)

    def test_in_a_batch_it_is_the_room_that_is_named(self, store, make_store):
        ranked = make_store(rank=0, world_size=2)
        ranked.update_status(5, BOOT)
        with pytest.raises(WorldSizeMismatchError, match=r"^update_many: room 5 has world_size=2"):
            store.update_many({4: MOVE, 5: MOVE, 6: MOVE})
        assert store.poll([4, 5, 6]) == [MOVE, BOOT, MOVE], "each room is its own step"

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [({}, {"rank": 0, "world_size": 2}), ({"rank": 0, "world_size": 2}, {"rank": 0, "world_size": 3})],
    )
    def test_another_does_not_clear_through_a_handle_and_may_without(self, make_store, client, theirs, ours):
        there, here = make_store(**theirs), make_store(**ours)
        held = there.open(ROOM, request="rid", status=INPUT)
        held.set_decode_prefix_len(7)
        before, feed = keys_of(client), words(client)
        room = here.attach(ROOM)
        with pytest.raises(WorldSizeMismatchError, match=rf"^clear: room {ROOM} has ") as caught:
            room.clear()
        assert caught.value.theirs == str(theirs.get("world_size", 0))
        assert (keys_of(client), words(client)) == (before, feed)
        assert held.update(MOVE).outcome is Outcome.ADVANCED
        make_store().attach(ROOM).clear()
        assert not keys_of(client), "who has no rank works on the whole"

    def test_who_has_no_rank_works_on_the_whole(self, ranks, store, client):
        first, second = ranks(2)
        for one in (first, second):
            one.update_status(ROOM, MOVE)
        client.pexpire(KEY, 5000)
        assert store.touch([ROOM]) == 1
        assert client.pttl(KEY) > 5000
        assert store.get(ROOM) is MOVE
        assert store.abort(ROOM).outcome is Outcome.FAILED
        assert first.collect(ROOM) == {0: FAIL, 1: FAIL}
        assert store.clear(ROOM) is FAIL
        assert not client.exists(KEY)


class TestTimeToLive:
    def test_it_is_the_long_one_until_all_have_come_to_the_end(self, ranks, client):
        first, second = ranks(2, ttl=100, terminal_ttl=20)
        for store, status in ((first, BOOT), (second, BOOT), (first, DONE), (second, MOVE)):
            store.update_status(ROOM, status)
            assert 20_000 < client.pttl(KEY) <= 100_000
        second.update_status(ROOM, DONE)
        assert 0 < client.pttl(KEY) <= 20_000

    def test_a_failed_rank_is_the_end(self, ranks, client):
        first, second = ranks(2, ttl=100, terminal_ttl=20)
        first.update_status(ROOM, BOOT)
        first.update_status(ROOM, FAIL)
        assert 0 < client.pttl(KEY) <= 20_000
        second.update_status(ROOM, BOOT)
        assert 0 < client.pttl(KEY) <= 20_000

    def test_clearing_leaves_it_as_it_is(self, ranks, client):
        first, second = ranks(2)
        for store in (first, second):
            store.update_status(ROOM, DONE)
        client.pexpire(KEY, 5000)
        first.clear(ROOM)
        assert 0 < client.pttl(KEY) <= 5000


class TestPrefixLength:
    def test_each_has_its_own(self, ranks, client):
        first, second = ranks(2)
        first.set_decode_prefix_len(ROOM, 7)
        second.set_decode_prefix_len(ROOM, 8)
        assert client.hgetall(PREFIX) == {"length:0": "7", "length:1": "8"}
        first.update_status(ROOM, BOOT)
        assert first.entry(ROOM).decode_prefix_len == 7
        assert first.pop_decode_prefix_len(ROOM) == 7
        assert first.pop_decode_prefix_len(ROOM) == 0
        assert second.pop_decode_prefix_len(ROOM) == 8

    @pytest.mark.parametrize("world_size", [1, 2])
    @pytest.mark.parametrize("is_there", [True, False])
    def test_clear_drops_ones_own_and_no_others(self, make_store, is_there, world_size):
        """Also the last to clear, or of a room that is gone: the others' may be for the next request."""
        store = make_store(rank=0, world_size=world_size)
        other = make_store(rank=1, world_size=2)
        if is_there:
            store.update_status(ROOM, BOOT)
        for each in (store, other):
            each.set_decode_prefix_len(ROOM, 7)
        store.clear(ROOM)
        assert (store.pop_decode_prefix_len(ROOM), other.pop_decode_prefix_len(ROOM)) == (0, 7)

    def test_one_of_another_type_goes(self, make_store, client):
        store = make_store(rank=0, world_size=1)
        client.set(PREFIX, "by hand", ex=100)
        store.update_status(ROOM, BOOT)
        store.clear(ROOM)
        assert not client.exists(PREFIX)

    def test_in_mode_prefill_failing_drops_ones_own_and_abort_all(self, ranks):
        first, second = stores = ranks(2, mode="prefill")
        for store in stores:
            store.update_status(ROOM, BOOT)
            store.set_decode_prefix_len(ROOM, 7)
        first.update_status(ROOM, FAIL)
        assert [store.entry(ROOM).decode_prefix_len for store in stores] == [None, 7]
        first.abort(ROOM)
        assert second.entry(ROOM).decode_prefix_len is None
        for store in stores:
            store.clear(ROOM)
            store.set_decode_prefix_len(ROOM, 7)
        first.abort(ROOM)
        assert [store.pop_decode_prefix_len(ROOM) for store in stores] == [0, 7]


def test_the_feed_tells_what_all_agree_on_and_whose_change_it_was(ranks, client):
    first, second = ranks(2, ttl=9, terminal_ttl=3)
    first.update_status(7, BOOT)
    second.update_status(7, FAIL)
    second.update_status(7, INPUT)
    first.update_status(7, FAIL)
    second.clear(7)
    first.abort(7)
    first.clear(7)
    first.update_status(7, BOOT)
    first.abort(7, "why")
    assert words(client) == [
        ["ttl_ms", "9000", "7", "Bootstrapping", "rank:0", "Bootstrapping"],
        ["ttl_ms", "9000", "7", "Bootstrapping", "rank:1", "WaitingForInput"],
        ["ttl_ms", "3000", "7", "Failed", "rank:0", "Failed"],
        ["7", "Failed", "rank:1", "absent"],
        ["7", "absent"],
        ["ttl_ms", "9000", "7", "Bootstrapping", "rank:0", "Bootstrapping"],
        ["ttl_ms", "3000", "7", "Failed", "reason", "why"],
    ]


@pytest.mark.parametrize("world_size", [None, 1, 4])
def test_a_room_with_all_its_fields_is_small(server, client, world_size):
    """Beside its key name, with a generation, a request as long as SGLang's, and an owner."""
    if server.is_fake:
        pytest.skip("fakeredis has no MEMORY USAGE")
    with contextlib.ExitStack() as stack:
        for rank in range(world_size or 1):
            ranks = {} if world_size is None else {"rank": rank, "world_size": world_size}
            store = stack.enter_context(StatusStore(server.store_client(), **ranks))
            if rank == 0:
                stack.enter_context(store.lease("prefill-0"))
            store.open(ROOM, request="0123456789abcdef0123456789abcdef").update(MOVE)
        entry = store.entry(ROOM)
        assert (entry.owner, entry.request, entry.reason) == ("prefill-0", "0123456789abcdef0123456789abcdef", None)
        assert client.memory_usage(KEY, samples=0) - len(KEY) <= 384
