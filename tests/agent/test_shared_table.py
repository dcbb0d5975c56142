"""The ranks of an instance in one agent: they share calls and connections, each with its own lease and end."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import replace

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll
from redis_kvpoll.agent import messages
from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.session.shared_table import SharedFailures
from redis_kvpoll.agent.session.told import ToldRooms
from redis_kvpoll.aio.failures import AsyncFailures
from redis_kvpoll.errors import StoreUnavailableError
from redis_kvpoll.protocol import keys
from tests.support import pace
from tests.support.real import connections
from tests.support.table_clients import Process

FAIL, BOOT, INPUT, MOVE, DONE = range(5)
RANKS = 8
A, B = 2**53 + 1, 7
LEASE = 60.0
"""Longer than any test."""


def hello_of(url, rank, **words):
    options = {"namespace": "t", "policy": "strict", "rank": rank, "world_size": RANKS}
    return ClientHello(url, options, f"h:{rank}", f"h:{rank}", "h", **{"lease": LEASE, "join": 60.0} | words)


def joining(sessions, url, **words):
    return [Process(sessions, hello_of(url, rank, **words)) for rank in range(RANKS)]


async def joined(sessions, url, **words):
    found = joining(sessions, url, **words)
    for rank in found:
        rank.lease = messages.decode_words(await rank.until(messages.LEASE))
        await rank.until(messages.JOINED)
    return found


async def opened(ranks, room):
    """Open a room for all of these ranks at once; return its generation."""
    for rank in ranks:
        rank.change(room, is_new=True, status=BOOT, request="rid")
    (generation,) = {(await rank.until_opened())[2] for rank in ranks}
    return generation


async def until(condition):
    """Wait until a condition, which is awaited, holds; return its result."""
    async with asyncio.timeout(pace.seconds(60)):
        while not (found := await condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return found


@pytest.fixture
async def store(url):
    async with AsyncStatusStore.from_url(url, namespace="t", policy="strict", rank=0, world_size=RANKS) as store:
        yield store


@pytest.fixture
async def ranks(sessions, url):
    return await joined(sessions, url)


def calls(client):
    """How many scripts the server has run."""
    return client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]


async def _are_closed(client, before):
    return not connections(client) - before


async def flushed(ranks):
    await asyncio.gather(*(rank.session.inner.publisher.flush() for rank in ranks))


async def until_ranks(store, room, wanted):
    await until(lambda: _collects(store, room, wanted))


async def _collects(store, room, wanted):
    return await store.collect(room) == {rank: KVPoll(status) for rank, status in wanted.items()}


ALL = range(RANKS)


class TestOneCall:
    async def test_changes_of_one_round_are_one_call(self, ranks, client, store):
        """Of each room they are one change. To open a room takes one more: the others join the first rank."""
        await opened(ranks, A), await opened(ranks, B)
        before = calls(client)
        for rank in ranks:
            rank.change(A, status=MOVE)
            rank.change(B, status=INPUT)
        await flushed(ranks)
        assert calls(client) - before == 1
        [(_, words)] = client.xrevrange(keys.feed("t"), count=1)
        assert words[b"rank:0,1,2,3,4,5,6,7"] == b"Transferring"
        before = calls(client)
        await opened(ranks, 99)
        assert calls(client) - before == 2

    async def test_failure_of_all_ranks_is_one_call(self, ranks, client, store):
        """Their reason, too, is the first one's."""
        await opened(ranks, B)
        before = calls(client)
        for rank in ranks:
            rank.change(B, status=FAIL, reason=f"why {rank.session.inner.hello.rank}", length=9)
        await flushed(ranks)
        assert calls(client) - before == 1
        entry = await store.entry(B)
        assert (entry.status, entry.reason, entry.failed_by) == (KVPoll.Failed, "why 0", "h:0 rank 0")

    async def test_ranks_share_connections(self, sessions, url, client):
        """To write and to follow, in their own table and in the other; one more for what is not queued. Not 4 each."""
        before = connections(client)
        ranks = await joined(sessions, url, other="o")
        assert len(connections(client) - before) <= 6
        for rank in ranks:
            rank.session.ended("goodbye")
        for rank in ranks:
            await rank.until(messages.LEFT)
        await until(lambda: _are_closed(client, before))

    @pytest.mark.parametrize("words", [{"instance": "i"}, {"lease": 50.0}, {"other": "o"}])
    async def test_process_with_other_settings_shares_nothing(self, sessions, ranks, url, client, words):
        """It joins beside them, and its rooms are its own."""
        before = connections(client)
        process = Process(sessions, replace(hello_of(url, 1), owner="another", **words))
        await process.until(messages.JOINED)
        assert len(connections(client) - before) >= (4 if "other" in words else 2)


class TestEnds:
    @pytest.mark.parametrize(("how", "why"), [("killed", "lost"), ("goodbye", "left")])
    async def test_end_of_one_rank_fails_only_its_rooms(self, ranks, store, how, why):
        await opened(ranks, A)
        await opened(ranks[:4], B)
        ranks[6].session.ended(how)
        await ranks[6].until(messages.LEFT)
        entry = await store.entry(A)
        assert (entry.status, entry.reason) == (KVPoll.Failed, f"owner h:6 {why}")
        assert [await rank.until(messages.FAILED) for rank in (ranks[0], ranks[7])]
        ranks[1].change(B, status=MOVE)
        await until_ranks(store, B, {0: BOOT, 1: MOVE, 2: BOOT, 3: BOOT})
        assert {owner.name for owner in await store.owners() if owner.state == "alive"} == {
            f"h:{rank}" for rank in ALL if rank != 6
        }

    async def test_rank_that_stands_still_loses_its_lease_alone(self, sessions, url, store):
        ranks = await joined(sessions, url, lease=pace.seconds(1.0))
        await opened(ranks, A)
        await opened(ranks[:4], B)
        ranks[6].silence = 10.0
        before = await _after_a_heartbeat(store)
        assert await _after_a_heartbeat(store) == before
        await until(lambda: _has_failed(store, A))
        assert (await store.entry(A)).reason == "owner h:6 lost"
        assert await store.get(B) is KVPoll.Bootstrapping
        ranks[6].silence = 0.0
        await ranks[6].until(messages.FAILED)
        ranks[6].change(A, is_over=True)
        ranks[6].change(9, number=2, is_new=True, status=BOOT, request="next")
        assert (await ranks[6].until_opened())[:2] == (9, 2)

    async def test_process_with_taken_name_loses_its_lease_alone(self, sessions, url, store):
        ranks = await joined(sessions, url, lease=pace.seconds(1.0))
        await opened(ranks, A)
        await opened(ranks[:4], B)
        async with AsyncStatusStore.from_url(url, namespace="t", policy="strict") as thief, thief.lease("h:6"):
            await ranks[6].until(messages.FAILED)
        assert await store.get(B) is KVPoll.Bootstrapping


async def _after_a_heartbeat(store):
    """Wait for a heartbeat of rank 0; return when rank 6 has had one."""
    first = (await _last_heartbeats(store))["h:0"]
    async with asyncio.timeout(pace.seconds(60)):
        while (found := await _last_heartbeats(store))["h:0"] == first:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found["h:6"]


async def _last_heartbeats(store):
    return {owner.name: owner.last_heartbeat_at for owner in await store.owners()}


async def _is_told(process, kind):
    return kind in process.kinds


async def _has_failed(store, room):
    return await store.get(room) is KVPoll.Failed


class TestGoingOn:
    @pytest.fixture
    async def again(self, sessions, ranks, url, store):
        """The ranks in another agent, with a room that they had before; its generation."""
        generation = await opened(ranks, A)
        for rank in ranks:
            rank.session.ended("superseded")
        for rank in ranks:
            await rank.until(messages.LEFT)
        again = [Process(sessions, replace(hello_of(url, rank), former=ranks[rank].lease)) for rank in ALL]
        for rank in again:
            rank.change(A, is_new=True, status=MOVE, request="rid", generation=generation)
            assert await rank.until_opened() == (A, 1, generation)
        return again, [rank.lease[0] for rank in ranks]

    async def test_ranks_keep_their_rooms_and_leases_in_another_agent(self, again, store):
        _, leases = again
        await until_ranks(store, A, dict.fromkeys(ALL, MOVE))
        assert sorted(str(owner.incarnation) for owner in await store.owners()) == sorted(leases)

    async def test_rooms_from_a_former_agent_survive_a_loss_of_data(self, again, store, client):
        """Whoever opened them is no more: each rank is the one that has opened its part."""
        ranks, _ = again
        await until_ranks(store, A, dict.fromkeys(ALL, MOVE))
        client.flushall()
        ranks[3].change(A, status=DONE)
        await flushed(ranks)
        assert await _collects(store, A, dict.fromkeys(ALL, MOVE) | {3: DONE})

    async def test_loss_of_data_brings_each_rank_back(self, ranks, store, client):
        generation = await opened(ranks, A)
        ranks[0].change(A, status=MOVE)
        await until_ranks(store, A, dict.fromkeys(ALL, BOOT) | {0: MOVE})
        client.flushall()
        ranks[1].change(A, status=INPUT)
        await until_ranks(store, A, dict.fromkeys(ALL, BOOT) | {0: MOVE, 1: INPUT})
        assert (await store.entry(A)).generation == generation


async def _follow(shared):
    async with shared.followed(ToldRooms(print, print), print):
        pass


class TestFailures:
    async def test_room_failed_by_hand_is_brought_back_as_failed(self, ranks, url, client, store):
        """The ranks were told that it has failed: after a loss of data nobody else knows."""
        await opened(ranks, A)
        async with AsyncStatusStore.from_url(url, namespace="t", policy="strict") as operator:
            await operator.abort(A, "wrong model")
        for rank in ranks:
            await rank.until(messages.FAILED)
        client.flushall()
        await opened(ranks[:1], B)
        assert (await store.get(A), await store.failure_reason(A)) == (FAIL, "wrong model")

    async def test_reason_alone_is_of_its_rank(self, ranks, store):
        """It is recorded before its failure, and no hand's."""
        await opened(ranks, A)
        ranks[1].change(A, reason="no route")
        await flushed(ranks)
        entry = await store.entry(A)
        assert (entry.status, entry.reason, entry.failed_by) == (KVPoll.Bootstrapping, "no route", "h:1 rank 1")

    async def test_rank_hears_of_a_failure_before_it_came(self, ranks, url):
        """It joins a room that is Failed, of which the follower has told the other ranks."""
        await opened(ranks[:2], A)
        async with AsyncStatusStore.from_url(url, namespace="t", policy="strict") as operator:
            await operator.abort(A, "wrong model")
        await ranks[0].until(messages.FAILED)
        ranks[5].change(A, is_new=True, status=BOOT, request="rid")
        await until(lambda: _is_told(ranks[5], messages.OPENED))
        assert messages.FAILED in ranks[5].kinds
        assert messages.decode_words(await ranks[5].until(messages.FAILED)) == [A, 1, "wrong model", True]

    async def test_rank_that_joins_a_failed_room_hears_of_it(self, ranks, url):
        """The follower has told nobody of it: the client that had it was done with it, but not yet in the table."""
        await opened(ranks[:1], A)
        await opened(ranks[1:2], B)
        ranks[0].session.received(messages.WANT_REASON, messages.encode_life(A, 1, True))
        ranks[0].change(A, is_over=True)
        async with AsyncStatusStore.from_url(url, namespace="t", policy="strict", rank=7, world_size=RANKS) as other:
            for room in (A, B):
                await (await other.attach(room)).update(FAIL)
        await ranks[1].until(messages.FAILED)
        ranks[5].change(A, is_new=True, status=BOOT, request="rid")
        await until(lambda: _is_told(ranks[5], messages.OPENED))
        assert messages.FAILED in ranks[5].kinds

    async def test_failure_to_follow_that_nobody_waits_for_is_not_logged(self, url, monkeypatch, caplog):
        """The client that waited for it is gone, and the next one begins anew."""
        begun = asyncio.Event()

        async def fail(self):
            begun.set()
            await asyncio.sleep(0.01)
            raise StoreUnavailableError("cut")

        monkeypatch.setattr(AsyncFailures, "__aenter__", fail)
        async with AsyncStatusStore.from_url(url, namespace="t") as store:
            shared = SharedFailures(store)
            gone = asyncio.create_task(_follow(shared))
            await begun.wait()
            gone.cancel()
            await asyncio.sleep(0.05)
            assert gone.cancelled()
            del gone  # it keeps what it waited for
            with pytest.raises(StoreUnavailableError):
                await _follow(shared)
            gc.collect()
            await shared.aclose()
        assert "never retrieved" not in caplog.text

    async def test_rank_that_comes_later_hears_of_the_other_table(self, sessions, url):
        """Its rooms are read, since the follower that is there has not known of them."""
        options = {"policy": "strict", "rank": 0, "world_size": RANKS}
        async with AsyncStatusStore.from_url(url, namespace="o", **options) as others:
            room = await others.open(B, "rid")
            await room.fail("no route")
            first = Process(sessions, hello_of(url, 0, other="o"))
            await first.until(messages.JOINED)
            late = Process(sessions, hello_of(url, 1, other="o"))
            late.change(B, is_new=True, status=BOOT, request="rid")
            assert messages.decode_life(await late.until(messages.FAILURE_WAITS))[:2] == (B, 1)
            late.session.received(messages.READ_FAILURE, messages.encode_life(B, 1))
            assert messages.decode_words(await late.until(messages.FAILURE_READ))[4] == "no route"

    async def test_room_told_late_has_failed_in_the_other_table(self, sessions, url):
        """The follower has told it to another rank, which holds the room."""
        ranks = await joined(sessions, url, other="o")
        moment = asyncio.get_running_loop().time()
        ranks[0].change(B, is_new=True, status=BOOT, request="rid", opened_at=moment)
        options = {"policy": "strict", "rank": 0, "world_size": RANKS}
        async with AsyncStatusStore.from_url(url, namespace="o", **options) as others:
            await (await others.open(B, "rid")).fail("no route")
            await ranks[0].until(messages.FAILURE_WAITS)
            ranks[1].change(B, is_new=True, status=BOOT, request="rid", opened_at=moment)
            assert messages.FAILURE_WAITS in ranks[1].kinds


class TestRoomsToldLate:
    """Their failures in the other table, which the follower does not have: the agent of before had a follower, too."""

    @pytest.fixture
    async def others(self, url):
        options = {"policy": "strict", "rank": 0, "world_size": RANKS}
        async with AsyncStatusStore.from_url(url, namespace="o", **options) as others:
            yield others

    async def test_room_failed_before_this_agent_came(self, sessions, url, others, monkeypatch):
        """It is read. One that was opened after that is not: the follower would know."""
        monkeypatch.setattr("redis_kvpoll.replica.failures.STALE_AFTER", 1e9)
        moment = time.monotonic()
        await _fail(others, A, B)
        process = Process(sessions, hello_of(url, 0, other="o"))
        await process.until(messages.JOINED)
        process.change(A, is_new=True, status=BOOT, request="rid", opened_at=time.monotonic())
        process.change(B, is_new=True, status=BOOT, request="rid", opened_at=moment)
        assert messages.decode_life(await process.until(messages.FAILURE_WAITS))[:2] == (B, 1)
        assert process.kinds.count(messages.FAILURE_WAITS) == 1

    async def test_room_that_no_table_has_keeps_no_other_from_being_read(self, sessions, url, others, monkeypatch):
        monkeypatch.setattr("redis_kvpoll.replica.failures.STALE_AFTER", 1e9)
        moment = time.monotonic()
        await _fail(others, B)
        process = Process(sessions, hello_of(url, 0, other="o"))
        await process.until(messages.JOINED)
        for room in -1, B:
            process.change(room, is_new=True, status=BOOT, request="rid", opened_at=moment)
        assert messages.decode_life(await process.until(messages.FAILURE_WAITS))[:2] == (B, 1)

    @pytest.mark.parametrize("namespace", ["o", "t"])
    async def test_room_that_no_table_has_keeps_no_failure_away(self, sessions, url, namespace):
        """The followers ask for all rooms of the clients at each failure."""
        process = Process(sessions, hello_of(url, 0, other="o"))
        await process.until(messages.JOINED)
        for room in -1, 2**64, B:
            process.change(room, is_new=True, status=BOOT, request="rid")
        await process.until_opened()
        options = {"policy": "strict", "rank": 1, "world_size": RANKS}
        async with AsyncStatusStore.from_url(url, namespace=namespace, **options) as store:
            await (await store.open(B, "rid h")).fail("no route")  # as this instance names it
        if namespace == "o":
            assert messages.decode_life(await process.until(messages.FAILURE_WAITS))[:2] == (B, 1)
        else:
            assert messages.decode_words(await process.until(messages.FAILED))[:3] == [B, 1, "no route"]

    async def test_room_that_no_table_has_keeps_nobody_from_joining_again(self, sessions, url):
        process = Process(sessions, hello_of(url, 0, other="o"))
        former = messages.decode_words(await process.until(messages.LEASE))
        await process.until(messages.JOINED)
        process.session.ended("superseded")
        await process.until(messages.LEFT)
        again = Process(sessions, hello_of(url, 0, other="o", former=former))
        again.change(-1, is_new=True, status=BOOT, request="rid")
        await again.until(messages.JOINED)

    async def test_room_failed_longer_ago_than_is_remembered(self, sessions, url, others, monkeypatch):
        monkeypatch.setattr("redis_kvpoll.replica.failures.MAX_REMEMBERED", 1)
        process = Process(sessions, hello_of(url, 0, other="o"))
        await process.until(messages.JOINED)
        moment = time.monotonic()
        process.change(9, is_new=True, status=BOOT, request="rid", opened_at=moment)
        await _fail(others, B, A, 9)
        assert messages.decode_life(await process.until(messages.FAILURE_WAITS))[:2] == (9, 1)
        process.change(B, is_new=True, status=BOOT, request="rid", opened_at=moment)
        assert messages.decode_life(await process.until(messages.FAILURE_WAITS))[:2] == (B, 1)

    async def test_failure_is_asked_for_that_a_former_agent_told(self, sessions, url, others):
        """The process did not know yet who serves the room."""
        await _fail(others, B)
        process = Process(sessions, hello_of(url, 0, other="o"))
        await process.until(messages.JOINED)
        process.change(B, is_new=True, status=BOOT, request="rid", opened_at=time.monotonic())
        process.session.received(messages.READ_FAILURE, messages.encode_life(B, 1))
        assert messages.decode_words(await process.until(messages.FAILURE_READ))[4] == "no route"


async def _fail(store, *rooms):
    for room in rooms:
        await (await store.open(room, "rid")).fail("no route")
