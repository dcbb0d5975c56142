"""The ranks of an instance in one agent: they share calls and connections, each with its own lease and end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll
from redis_kvpoll.agent import messages
from redis_kvpoll.protocol import keys
from tests.support import pace
from tests.support.instance import BOOT, DONE, FAIL, INPUT, MOVE, RANKS, A, B, flushed, hello_of, joined, opened, until
from tests.support.real import connections
from tests.support.table_clients import Process


def calls(client):
    """How many scripts the server has run."""
    return client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]


async def _are_closed(client, before):
    return not connections(client) - before


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
    async with asyncio.timeout(pace.patience(60)):
        while (found := await _last_heartbeats(store))["h:0"] == first:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found["h:6"]


async def _last_heartbeats(store):
    return {owner.name: owner.last_heartbeat_at for owner in await store.owners()}


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
