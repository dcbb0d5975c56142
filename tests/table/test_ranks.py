"""What each rank of a request sees of its room, and their consensus, case by case."""

from __future__ import annotations

import pytest

from redis_kvpoll import Consensus, InvalidInputError, KVPoll, KVTransferError, Outcome, Update
from tests.support.servers import room_keys

BOOT, INPUT, MOVE, DONE, FAIL = (KVPoll(number) for number in (1, 2, 3, 4, 0))
ROOM = 2**64 - 1
KEY, PREFIX = f"kvpoll:{{default}}:room:{ROOM}", f"kvpoll:{{default}}:prefix:{ROOM}"


class TestConsensus:
    @pytest.mark.parametrize(
        ("statuses", "expected"),
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
    def test_consensus_is_failed_then_missing_then_lowest(self, ranks, make_store, statuses, expected):
        stores = ranks(3)
        for store in stores[: len(statuses)]:
            store.update_status(ROOM, BOOT)
        for store, status in zip(stores, statuses, strict=False):
            store.update_status(ROOM, status)
        for store in (*stores, make_store()):
            assert [found.status for found in store.consensus([ROOM])] == [expected]
            assert store.collect(ROOM) == dict(enumerate(statuses))
            assert store.counts() == {status: int(status is expected) for status in KVPoll}
            assert [list(store.rooms(status)) for status in KVPoll] == [[ROOM] * (s is expected) for s in KVPoll]

    def test_consensus_stays_while_ranks_clear(self, ranks, make_store, client):
        stores, operator = ranks(3), make_store()
        for store in stores:
            store.update_status(ROOM, MOVE)
        stores[0].update_status(ROOM, DONE)
        for store in stores:
            store.update_status(ROOM, DONE)
        for at, store in enumerate(stores):
            assert operator.consensus([ROOM])[0].status is DONE
            assert [store.get(ROOM) for store in stores] == [None] * at + [DONE] * (3 - at)
            assert client.exists(KEY)
            assert store.clear(ROOM) is DONE
        assert not client.exists(KEY)
        assert operator.consensus([ROOM]) == [Consensus(None, 0, 0)]

    def test_missing_rank_keeps_consensus_at_bootstrapping(self, ranks):
        first, second, third = ranks(3)
        for store in (first, second):
            store.update_status(ROOM, DONE)
        first.clear(ROOM)
        assert second.consensus([ROOM])[0].status is BOOT
        third.update_status(ROOM, DONE)
        assert second.consensus([ROOM])[0].status is DONE

    def test_later_consensus_has_higher_version(self, ranks):
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

    def test_thousand_rooms_take_one_call_per_shard(self, server, ranks, client):
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

    def test_plain_room_is_its_own_consensus(self, store):
        store.update_status(ROOM, MOVE)
        status, generation, version = store.consensus([ROOM])[0]
        assert (status, version) == (MOVE, 0)
        assert generation > 10**15
        assert store.collect(ROOM) == {}

    def test_unknown_status_of_a_rank_counts_as_present(self, ranks, client):
        first, _ = ranks(2)
        first.update_status(ROOM, DONE)
        client.hset(KEY, "status:1", "Banana")
        assert first.update_status(ROOM, FAIL) == Update(Outcome.FAILED, FAIL)
        assert first.collect(ROOM) == {0: FAIL}


class TestOneRank:
    def test_room_of_other_rank_is_absent(self, ranks):
        first, second = ranks(2)
        first.update_status(ROOM, MOVE)
        assert second.get(ROOM) is None
        assert second.update_status(ROOM, FAIL) == Update(Outcome.SKIPPED, None)
        assert second.update_status(ROOM, BOOT) == Update(Outcome.CREATED, BOOT)
        assert first.poll([ROOM]) == [MOVE]

    def test_failure_of_any_rank_is_read_by_all(self, ranks):
        first, second, third = ranks(3)
        for store in (first, second):
            store.update_status(ROOM, MOVE)
        assert first.update_status(ROOM, FAIL).outcome is Outcome.FAILED
        assert [store.get(ROOM) for store in (first, second, third)] == [FAIL] * 3
        assert second.collect(ROOM) == {0: FAIL, 1: MOVE}
        assert second.entry(ROOM).failed_by == "rank 0"

    def test_abort_fails_all_ranks_present_and_later(self, ranks):
        first, second, third = ranks(3)
        for store in (first, second):
            store.update_status(ROOM, MOVE)
        assert third.abort(ROOM, "why") == Update(Outcome.FAILED, FAIL)
        assert first.collect(ROOM) == {0: FAIL, 1: FAIL}
        assert third.update_status(ROOM, FAIL) == Update(Outcome.SKIPPED, FAIL)
        assert third.update_status(ROOM, INPUT) == Update(Outcome.FAILED, FAIL)
        entry = first.entry(ROOM)
        assert (entry.ranks, entry.reason, entry.failed_by) == ({0: FAIL, 1: FAIL, 2: FAIL}, "why", "rank 2")

    def test_abort_counts_ranks_that_have_cleared(self, ranks, client):
        first, second, third = ranks(3)
        for store in (first, second, third):
            store.update_status(ROOM, MOVE)
        first.clear(ROOM)
        second.abort(ROOM)
        assert client.hget(KEY, "counts") == "0 0 1 0 2 1"
        second.clear(ROOM)
        assert client.exists(KEY)
        third.clear(ROOM)
        assert not client.exists(KEY)

    def test_rank_that_joins_failed_room_is_not_failed_by(self, ranks, store):
        first, second = ranks(2)
        first.update_status(ROOM, MOVE)
        store.abort(ROOM, "by hand")
        second.update_status(ROOM, BOOT)
        assert first.entry(ROOM).failed_by is None

    def test_cleared_rank_reads_nothing_and_is_skipped(self, ranks, client):
        first, second = ranks(2)
        for store in (first, second):
            store.update_status(ROOM, MOVE)
        assert first.clear(ROOM) is MOVE
        before = room_keys(client)
        for status in KVPoll:
            assert first.update_status(ROOM, status) == Update(Outcome.SKIPPED, None)
        assert first.abort(ROOM) == Update(Outcome.SKIPPED, None)
        assert first.clear(ROOM) is None
        assert first.get(ROOM) is None
        assert room_keys(client) == before
        second.abort(ROOM)
        assert (first.get(ROOM), second.get(ROOM)) == (None, FAIL)

    def test_rank_without_status_can_clear_failure(self, ranks, client):
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

    def test_last_clear_frees_room_for_next_request(self, ranks):
        first, second = ranks(2)
        for store in (first, second):
            store.update_status(ROOM, DONE)
        first.clear(ROOM)
        before = second.consensus([ROOM])[0].generation
        second.clear_many([ROOM])
        assert first.update_status(ROOM, BOOT) == Update(Outcome.CREATED, BOOT)
        assert second.consensus([ROOM])[0].generation > before

    def test_bad_ranks_are_refused_before_sending(self, make_store):
        for wrong in ({"rank": 0}, {"world_size": 2}, {"rank": 2, "world_size": 2}, {"rank": -1, "world_size": 2}):
            with pytest.raises(InvalidInputError, match="rank"):
                make_store(**wrong)
