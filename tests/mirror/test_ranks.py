"""Mirrors and waits of stores with a rank, on every server, blocking and asyncio."""

from __future__ import annotations

import contextlib
import random

import pytest

from redis_kvpoll import InvalidInputError, KVPoll, RoomBusyError, RoomNotFoundError, StatusStore, StoreClosedError
from tests.support import pace, real
from tests.support.internals import ids_of, replica_of
from tests.support.mirrors import sleeping

BOOT, INPUT, MOVE, DONE, FAIL = (KVPoll(number) for number in (1, 2, 3, 4, 0))
ROOM = 2**64 - 1


@pytest.fixture
def ranks(side, server):
    """Makes the stores of all ranks."""

    def make(world_size, **options):
        return [side.over(server, rank=rank, world_size=world_size, **options) for rank in range(world_size)]

    return make


class TestReading:
    def test_each_rank_sees_its_own_status(self, ranks):
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

    def test_failure_of_any_rank_is_seen_by_all(self, ranks):
        first, second, third = ranks(3)
        for store in (first, second):
            store.update_status(ROOM, MOVE)
        with first.mirror() as mine, second.mirror() as theirs, third.mirror() as silent:
            first.update_status(ROOM, FAIL)
            assert mine.get(ROOM) is FAIL
            for mirror in (theirs, silent):
                real.until(lambda mirror=mirror: mirror.get(ROOM) is FAIL, "the failure")
            for store, mirror in ((third, silent), (first, mine), (second, theirs)):
                store.clear(ROOM)
                assert mirror.get(ROOM) is None
            first.update_status(1, BOOT)
            for mirror in (mine, theirs, silent):
                real.until(lambda mirror=mirror: mirror.lag < 0.2, "it has read on")
                assert mirror.get(ROOM) is None

    def test_cleared_rank_gets_no_later_changes(self, ranks, client):
        first, second = ranks(2)
        seen = []
        with first.mirror() as mirror:
            mirror.on_change(lambda room, status: seen.append((room, status)))
            for store in (first, second):
                store.update_status(1, DONE)
            first.clear(1)
            second.abort(1)
            second.clear(1)
            first.update_status(2, BOOT)
            real.until(lambda: (2, BOOT) in seen, "the last")
        assert seen == [(1, DONE), (1, None), (2, BOOT)]

    def test_store_without_rank_sees_consensus(self, ranks, side, server):
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
    def test_random_traffic_ends_with_mirrors_equal_to_table(self, ranks, side, server, threads, policy, shards):
        """Three ranks write while mirrors are opened; in the end all mirrors must equal the server."""
        settings = {"policy": policy, "shards": shards, "namespace": f"{policy}-{shards}"}
        stores, rooms = [*ranks(3, **settings), side.over(server, **settings)], range(8)
        seen = [{} for _ in stores]

        def live(rank):
            chance, store = random.Random(rank), stores[rank]
            for _ in range(120):
                room = chance.choice(rooms)
                match chance.randrange(13):
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
                    case 6:
                        with contextlib.suppress(RoomBusyError):
                            store.open(room, request=chance.choice("ab"))
                    case _:
                        store.update_status(room, chance.choice((*KVPoll, BOOT, DONE)))

        lives = [threads.submit(live, rank) for rank in range(3)]
        mirrors = [store.mirror() for store in stores]
        for mirror, last in zip(mirrors, seen, strict=True):
            mirror.__enter__()
            mirror.on_change(last.__setitem__)
        for one in lives:
            one.result(60)
        for store, mirror, last in zip(stores, mirrors, seen, strict=True):
            real.until(lambda m=mirror, s=store: m.synced and m.poll(rooms) == s.poll(rooms), "equal to the store")
            real.until(
                lambda m=mirror, t=last: all(t.get(room) == m.get(room) for room in rooms if room in t),
                "reported",
            )
            replica = replica_of(mirror)
            assert replica.statuses.keys() == {r for r in rooms if mirror.get(r) is not None}
            if replica.context.rank:
                for room in rooms:
                    real.until(lambda m=mirror, s=store, r=room: m.collect(r) == s.collect(r), "all ranks")
            mirror.close()


def shows(mirror, **rooms):
    """Wait until the mirror has it."""
    for room, ranks in rooms.items():
        real.until(lambda room=int(room[1:]), ranks=ranks: mirror.collect(room) == ranks, f"{room}: {ranks}")


class TestConsensus:
    def test_consensus_equals_store_consensus(self, ranks):
        """Of rooms read at the start, and of changes in the feed."""
        first, second, third = ranks(3)
        first.update_many(dict.fromkeys((1, 2, 3, 4), MOVE))
        second.update_many({1: DONE, 2: DONE, 4: INPUT})
        third.update_many({1: DONE, 3: DONE, 4: DONE})
        third.update_status(3, FAIL)
        third.clear(4)
        rooms = range(1, 7)

        def is_current(mirror):
            real.until(lambda: mirror.consensus(rooms) == of_store(first, rooms), "it is the store's")
            return mirror.consensus(rooms)

        with second.mirror() as mirror:
            assert mirror.consensus(rooms) == {1: MOVE, 2: BOOT, 3: FAIL, 4: INPUT, 5: None, 6: None}
            third.update_many({2: DONE, 5: BOOT})
            first.abort(1)
            for store in (first, second):
                store.clear(4)
            assert is_current(mirror) == {1: FAIL, 2: MOVE, 3: FAIL, 4: None, 5: BOOT, 6: None}

    def test_own_write_is_in_the_consensus_at_once(self, ranks):
        first, second = ranks(2)
        for store in (first, second):
            store.update_status(1, MOVE)
        second.update_status(1, DONE)
        with first.mirror() as mirror:
            first.update_status(1, DONE)
            assert mirror.consensus([1]) == {1: DONE}

    def test_plain_room_agrees_with_itself(self, ranks, side, server):
        """Before and after the mirror opens; a mirror without a rank has the consensus of rooms with ranks, too."""
        first, second = ranks(2)
        plain = side.over(server)
        plain.update_many({1: MOVE, 3: BOOT})
        first.update_status(4, DONE)
        with first.mirror() as mirror, plain.mirror() as without_rank:
            assert mirror.consensus([1, 3]) == {1: MOVE, 3: BOOT}
            plain.update_many({2: DONE, 3: DONE})
            second.update_status(4, MOVE)
            for one in (mirror, without_rank):
                real.until(lambda one=one: one.consensus([4]) == {4: MOVE} and one.synced, "the last change")
                assert one.consensus([1, 2, 3]) == {1: MOVE, 2: DONE, 3: DONE}

    def test_consensus_refuses_what_is_no_list(self, ranks):
        (first,) = ranks(1)
        mirror = first.mirror()
        with pytest.raises(StoreClosedError, match="consensus: this mirror is not open"):
            mirror.consensus([1])
        with mirror:
            for bad in (7, "12", b"12", bytearray(b"12")):
                for call in (mirror.consensus, mirror.poll):
                    with pytest.raises(InvalidInputError, match=f"{call.__name__}: it takes a list of rooms"):
                        call(bad)


def of_store(store, rooms):
    return dict(zip(rooms, (found.status for found in store.consensus(rooms)), strict=True))


class TestCollect:
    def test_collect_equals_store_collect(self, ranks):
        first, second = ranks(2)
        first.update_many({1: MOVE, 2: DONE})
        second.update_many({1: DONE, 2: DONE})
        with first.mirror() as mirror:
            assert mirror.collect(1) == first.collect(1) == {0: MOVE, 1: DONE}
            assert list(mirror.collect(1)) == [0, 1]
            first.update_status(1, DONE)
            assert mirror.collect(1) == {0: DONE, 1: DONE}
            second.clear(2)
            second.update_status(3, BOOT)
            shows(mirror, _3={1: BOOT})
            assert mirror.collect(2) == {0: DONE, 1: DONE}, "the last status of a cleared rank still counts"
            first.clear(2)
            first.update_status(3, BOOT)
            shows(mirror, _2={}, _3={0: BOOT, 1: BOOT})
            assert mirror.collect(4) == {}

    def test_abort_fails_all_ranks_but_cleared_ones(self, ranks):
        first, second, third = ranks(3)
        for store in (first, second):
            store.update_status(1, DONE)
        with third.mirror() as silent, first.mirror() as mirror:
            second.clear(1)
            third.abort(1)
            for one in (silent, mirror):
                shows(one, _1={0: FAIL, 1: DONE})
            assert (silent.get(1), mirror.get(1)) == (FAIL, FAIL)
            third.clear(1)
            shows(mirror, _1={0: FAIL, 1: DONE, 2: FAIL})
            assert first.collect(1) == {0: FAIL, 1: DONE, 2: FAIL}

    def test_reopened_room_has_no_former_ranks(self, ranks):
        first, second = ranks(2)
        with first.mirror() as mine, second.mirror() as theirs:
            for _ in range(20):
                for store in (first, second):
                    store.open(1, request="former")
                shows(mine, _1={0: BOOT, 1: BOOT})
                second.abort(1)
                shows(theirs, _1={0: FAIL, 1: FAIL})
                second.open(1, request="next")
                assert theirs.collect(1) == {1: BOOT}
                real.until(lambda: mine.get(1) is None, "the former room is gone from its view")
                assert mine.collect(1) == {1: BOOT}
                first.open(1, request="next")
                shows(mine, _1={0: BOOT, 1: BOOT})
                second.abort(1)
                for store in (first, second):
                    store.clear(1)

    def test_expired_and_recreated_room_has_no_former_ranks(self, ranks, client):
        first, second = ranks(2)
        first.update_status(1, MOVE)
        with first.mirror() as mirror:
            client.pexpireat("kvpoll:{default}:room:1", 1)
            second.update_status(1, INPUT)
            shows(mirror, _1={1: INPUT})
            assert mirror.get(1) is None

    def test_room_of_other_ranks_expires_too(self, ranks):
        first, second = ranks(2, ttl=0.05)
        with first.mirror() as mirror:
            real.until(lambda: second.update_status(1, BOOT) and mirror.collect(1) == {1: BOOT}, "it is there")
            shows(mirror, _1={})
            assert not ids_of(replica_of(mirror).shards["default"])

    def test_rooms_outside_predicate_have_no_ranks(self, ranks):
        first, second = ranks(2)
        second.update_many({1: BOOT, 2: BOOT})
        with first.mirror(rooms=lambda room: room != 1) as mirror:
            first.update_many({1: BOOT, 4: BOOT})
            assert (mirror.collect(1), mirror.collect(2), mirror.collect(4)) == ({}, {1: BOOT}, {0: BOOT})

    def test_plain_room_has_no_ranks(self, ranks, side, server):
        (first,) = ranks(1)
        plain = side.over(server)
        with first.mirror() as mirror:
            plain.update_many({1: BOOT, 2: BOOT})
            plain.abort(1)
            real.until(lambda: mirror.get(1) is FAIL, "a failure is seen by all")
            plain.update_status(1, MOVE)
            real.until(lambda: first.get(1) is mirror.get(1), "as the store has it")
            assert (mirror.collect(1), mirror.collect(2), first.collect(1)) == ({}, {}, {})

    def test_collect_returns_a_copy(self, ranks):
        (first,) = ranks(1)
        first.update_status(1, BOOT)
        with first.mirror() as mirror:
            mirror.collect(1).clear()
            assert mirror.collect(1) == {0: BOOT}

    def test_collect_without_rank_is_refused(self, side, server):
        no_rank = pytest.raises(InvalidInputError, match="collect: this mirror's store has no rank")
        with side.over(server).mirror() as mirror, no_rank:
            mirror.collect(1)

    def test_collect_needs_an_open_mirror(self, ranks):
        (first,) = ranks(1)
        mirror = first.mirror()
        with pytest.raises(StoreClosedError, match="collect: this mirror is not open"):
            mirror.collect(1)
        with mirror:
            assert mirror.collect(1) == {}
            with pytest.raises(InvalidInputError, match="collect: it takes a room"):
                mirror.collect([1])
        with pytest.raises(StoreClosedError, match="collect: this mirror was closed"):
            mirror.collect(1)

    def test_ranks_are_recovered_after_data_loss(self, side):
        with real.World("sync") as world, contextlib.ExitStack() as stack:
            server = world.serve()
            ranks = [{"rank": rank, "world_size": 2} for rank in range(2)]
            first, second = (stack.enter_context(StatusStore.from_url(server.tcp, **rank)) for rank in ranks)
            for store in (first, second):
                store.update_many({1: DONE, 2: DONE, 3: DONE})
            second.clear(3)
            opened, attached = first.open(4), second.attach(4)
            for status in (BOOT, DONE):
                attached.update(status)
            with side.open(server.tcp, **ranks[0]).mirror() as mirror:
                assert [mirror.collect(room) for room in (1, 3, 4)] == [{0: DONE, 1: DONE}] * 2 + [{0: BOOT, 1: DONE}]
                server = world.restart(server)
                second.update_status(1, BOOT)
                real.until(lambda: mirror.synced and mirror.collect(1) == {1: BOOT}, "resynced")
                assert mirror.get(1) is None
                assert (mirror.collect(2), mirror.collect(3)) == ({}, {})
                assert (opened.status(), attached.status()) == (BOOT, DONE)
                real.until(lambda: second.collect(4) == mirror.collect(4) == {0: BOOT, 1: DONE}, "brought back")


class TestWaiting:
    @pytest.fixture(params=("store", "mirror"))
    def waits(self, request):
        return request.param

    def on(self, store, kind, do):
        """The result of ``do`` with the store, or with a mirror of it."""
        if kind == "store":
            return do(store)
        with store.mirror() as mirror:
            return do(mirror)

    def test_wait_is_for_own_status(self, ranks, threads, waits):
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
            return waiting.result(pace.seconds(120))

        assert self.on(first, waits, wait) is DONE

    def test_wait_ends_on_failure_of_other_rank(self, ranks, threads, waits):
        first, second = ranks(2)
        for store in (first, second):
            store.update_status(ROOM, BOOT)

        def wait(on):
            waiting = threads.submit(on.wait, ROOM, DONE, timeout=30)
            real.until(lambda: sleeping(on), "it waits")
            second.update_status(ROOM, FAIL)
            return waiting.result(pace.seconds(120))

        assert self.on(first, waits, wait) is FAIL

    def test_wait_ends_on_own_clear_by_other_process(self, ranks, threads, waits, server):
        first, second = ranks(2)
        for store in (first, second):
            store.update_status(ROOM, BOOT)

        def wait(on):
            waiting = threads.submit(on.wait, ROOM, timeout=30)
            real.until(lambda: sleeping(on), "it waits")
            with StatusStore(server.store_client(), rank=0, world_size=2) as elsewhere:
                elsewhere.clear(ROOM)
            with pytest.raises(RoomNotFoundError):
                waiting.result(pace.seconds(120))

        self.on(first, waits, wait)

    def test_wait_of_rank_without_status_raises(self, ranks, waits):
        first, second = ranks(2)
        first.update_status(ROOM, MOVE)

        def wait(on):
            with pytest.raises(RoomNotFoundError):
                on.wait(ROOM, timeout=5)

        self.on(second, waits, wait)
