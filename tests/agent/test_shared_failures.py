"""Failures that the ranks of an instance hear of in one agent: in their own table, and in the other role's."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll
from redis_kvpoll.agent import messages
from redis_kvpoll.agent.session import publisher
from redis_kvpoll.agent.session.shared_table import SharedFailures
from redis_kvpoll.agent.session.told import ToldRooms
from redis_kvpoll.aio.failures import AsyncFailures
from redis_kvpoll.aio.rank_group import AsyncRankGroup
from redis_kvpoll.errors import StoreUnavailableError
from tests.support import pace
from tests.support.instance import BOOT, FAIL, RANKS, A, B, flushed, hello_of, is_told, joined, opened, until
from tests.support.table_clients import Process


async def _follow(shared):
    async with shared.followed(ToldRooms(print, print), print):
        pass


async def _has_published(process):
    return not process.session.inner.rooms.outbox.has_changes


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
        await until(lambda: is_told(ranks[5], messages.OPENED))
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
        await until(lambda: is_told(ranks[5], messages.OPENED))
        assert messages.FAILED in ranks[5].kinds

    async def test_reason_wanted_while_the_end_is_written_is_fetched(self, ranks, url, monkeypatch):
        """The thread begins to wait just after it has ended the room, of which the other ranks are not done."""
        await opened(ranks, A)
        written, go_on = asyncio.Event(), asyncio.Event()
        write_together = AsyncRankGroup.write_together

        async def slow(self, changes):
            answers = await write_together(self, changes)
            written.set()
            await go_on.wait()
            return answers

        monkeypatch.setattr(AsyncRankGroup, "write_together", slow)
        ranks[0].change(A, is_over=True)
        await written.wait()
        ranks[0].session.received(messages.WANT_REASON, messages.encode_life(A, 1, True))
        await until(lambda: _has_published(ranks[0]))
        go_on.set()
        ranks[1].change(A, status=FAIL, reason="no route")
        assert messages.decode_words(await ranks[0].until(messages.REASON)) == [A, "no route"]

    async def test_reason_wanted_while_the_server_was_away_is_fetched(self, ranks):
        await opened(ranks, A)
        ranks[1].change(A, status=FAIL, reason="no route")
        await flushed(ranks[1:2])
        ranks[0].session.inner.table.publisher.is_online.clear()
        ranks[0].session.received(messages.WANT_REASON, messages.encode_life(A, 1, True))
        await until(lambda: _has_published(ranks[0]))
        assert messages.decode_words(await ranks[0].until(messages.REASON)) == [A, "no route"]

    async def test_reason_that_a_stopped_process_wants_delays_no_change(self, ranks, monkeypatch):
        """A stopped process does not say that its thread waits no more."""
        monkeypatch.setattr(publisher, "REASON_SECONDS", 0.05)
        await opened(ranks, A)
        ranks[0].session.received(messages.WANT_REASON, messages.encode_life(A, 1, True))
        ranks[0].change(A, status=KVPoll.Transferring)
        flushing = asyncio.create_task(flushed(ranks[:1]))
        done, _ = await asyncio.wait([flushing], timeout=pace.patience(20))
        flushing.cancel()
        assert done

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
