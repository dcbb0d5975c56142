"""Mirrors and waits of stores that speak for a rank, on every server, blocking and asyncio."""

from __future__ import annotations

import random

import pytest

from redis_kvpoll import KVPoll, RoomNotFoundError, StatusStore
from tests import real
from tests.test_mirror import sleeping

BOOT, INPUT, MOVE, DONE, FAIL = (KVPoll(number) for number in (1, 2, 3, 4, 0))
ROOM = 2**63 - 1


@pytest.fixture
def ranks(side, server):
    """Makes the stores of all ranks."""

    def make(world_size, **options):
        return [side.over(server, rank=rank, world_size=world_size, **options) for rank in range(world_size)]

    return make


class TestReading:
    def test_each_sees_its_own(self, ranks):
        first, second = ranks(2)
        first.update_many({1: MOVE, 2: MOVE})
        with first.mirror() as mine, second.mirror() as theirs:
            assert (mine.poll([1, 2]), theirs.poll([1, 2])) == ([MOVE, MOVE], [None, None])
            second.update_status(1, DONE)
            assert theirs.get(1) is DONE
            first.update_status(2, DONE)
            second.update_status(2, INPUT)
            first.update_status(3, BOOT)
            real.until(lambda: mine.get(3) and theirs.get(2), "the last")
            assert (mine.poll([1, 2]), theirs.poll([1, 2, 3])) == ([MOVE, DONE], [DONE, INPUT, None])

    def test_a_failure_of_any_is_seen_by_all_and_by_who_has_not_been_heard_of(self, ranks):
        first, second, third = ranks(3)
        for store in (first, second):
            store.update_status(ROOM, MOVE)
        with first.mirror() as mine, second.mirror() as theirs, third.mirror() as unheard:
            first.update_status(ROOM, FAIL)
            assert mine.get(ROOM) is FAIL
            for mirror in (theirs, unheard):
                real.until(lambda mirror=mirror: mirror.get(ROOM) is FAIL, "the failure")
            for store, mirror in ((third, unheard), (first, mine), (second, theirs)):
                store.clear(ROOM)
                assert mirror.get(ROOM) is None
            first.update_status(1, BOOT)
            for mirror in (mine, theirs, unheard):
                real.until(lambda mirror=mirror: mirror.lag < 0.2, "it has read on")
                assert mirror.get(ROOM) is None

    def test_who_has_cleared_is_not_told_of_what_comes_after(self, ranks, client):
        first, second = ranks(2)
        told = []
        with first.mirror() as mirror:
            mirror.on_change(lambda room, status: told.append((room, status)))
            for store in (first, second):
                store.update_status(1, DONE)
            first.clear(1)
            second.abort(1)
            second.clear(1)
            first.update_status(2, BOOT)
            real.until(lambda: (2, BOOT) in told, "the last")
        assert told == [(1, DONE), (1, None), (2, BOOT)]

    def test_who_has_no_rank_sees_what_all_agree_on(self, ranks, side, server):
        first, second = ranks(2)
        store = side.over(server)
        with store.mirror() as mirror:
            for one, status, agreed in ((first, DONE, BOOT), (second, MOVE, MOVE), (second, DONE, DONE)):
                one.update_status(ROOM, status)
                real.until(lambda agreed=agreed: mirror.get(ROOM) is agreed, "what is agreed on")
            first.clear(ROOM)
            assert mirror.get(ROOM) is DONE
            second.clear(ROOM)
            real.until(lambda: mirror.get(ROOM) is None, "the last has cleared")

    @pytest.mark.parametrize("shards", [1, 3])
    def test_random_traffic_ends_as_each_would_be_told(self, ranks, side, server, threads, policy, shards):
        """Three ranks write at once, mirrors are opened in the midst of it; then all must agree with the server."""
        settings = {"policy": policy, "shards": shards, "namespace": f"{policy}-{shards}"}
        stores, rooms = [*ranks(3, **settings), side.over(server, **settings)], range(8)
        told = [{} for _ in stores]

        def live(rank):
            chance, store = random.Random(rank), stores[rank]
            for _ in range(120):
                room = chance.choice(rooms)
                match chance.randrange(12):
                    case 0 | 1:
                        store.clear(room)
                    case 2:
                        store.abort(room, "why")
                    case 3:
                        store.touch(rooms)
                    case 4:
                        store.update_many(dict.fromkeys(rooms, BOOT))
                    case 5:
                        store.record_failure(room, "why")
                    case _:
                        store.update_status(room, chance.choice((*KVPoll, BOOT, DONE)))

        lives = [threads.submit(live, rank) for rank in range(3)]
        mirrors = [store.mirror() for store in stores]
        for mirror, last in zip(mirrors, told, strict=True):
            mirror.__enter__()
            mirror.on_change(last.__setitem__)
        for one in lives:
            one.result(60)
        for store, mirror, last in zip(stores, mirrors, told, strict=True):
            real.until(lambda m=mirror, s=store: m.synced and m.poll(rooms) == s.poll(rooms), "the truth")
            real.until(
                lambda m=mirror, t=last: all(t.get(room) == m.get(room) for room in rooms if room in t), "what was told"
            )
            assert getattr(mirror, "inner", mirror)._replica.statuses.keys() == {
                r for r in rooms if mirror.get(r) is not None
            }
            mirror.close()


class TestWaiting:
    @pytest.fixture(params=("store", "mirror"))
    def waits(self, request):
        return request.param

    def on(self, store, kind, do):
        """What ``do`` comes to with what waits: the store, or a mirror of it."""
        if kind == "store":
            return do(store)
        with store.mirror() as mirror:
            return do(mirror)

    def test_it_is_for_ones_own_status(self, ranks, threads, waits):
        first, second = ranks(2)
        for store in (first, second):
            store.update_status(ROOM, BOOT)

        def wait(on):
            waiting = threads.submit(on.wait, ROOM, timeout=30)
            real.until(lambda: sleeping(on), "it waits")
            second.update_status(ROOM, DONE)
            second.clear(ROOM)
            assert not waiting.done()
            first.update_status(ROOM, DONE)
            return waiting.result(20)

        assert self.on(first, waits, wait) is DONE

    def test_anothers_failure_ends_it(self, ranks, threads, waits):
        first, second = ranks(2)
        for store in (first, second):
            store.update_status(ROOM, BOOT)

        def wait(on):
            waiting = threads.submit(on.wait, ROOM, DONE, timeout=30)
            real.until(lambda: sleeping(on), "it waits")
            second.update_status(ROOM, FAIL)
            return waiting.result(20)

        assert self.on(first, waits, wait) is FAIL

    def test_its_own_clear_elsewhere_ends_it(self, ranks, threads, waits, server):
        first, second = ranks(2)
        for store in (first, second):
            store.update_status(ROOM, BOOT)

        def wait(on):
            waiting = threads.submit(on.wait, ROOM, timeout=30)
            real.until(lambda: sleeping(on), "it waits")
            with StatusStore(server.store_client(), rank=0, world_size=2) as elsewhere:
                elsewhere.clear(ROOM)
            with pytest.raises(RoomNotFoundError):
                waiting.result(20)

        self.on(first, waits, wait)

    def test_of_a_rank_that_has_said_nothing_there_is_none(self, ranks, waits):
        first, second = ranks(2)
        first.update_status(ROOM, MOVE)

        def wait(on):
            with pytest.raises(RoomNotFoundError):
                on.wait(ROOM, timeout=5)

        self.on(second, waits, wait)
