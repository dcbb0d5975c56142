"""One store that speaks for several ranks: what it opens, writes and gets back after a loss of data."""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from redis_kvpoll import (
    AsyncStatusStore,
    InvalidInputError,
    KVPoll,
    LeaseLostError,
    Outcome,
    RoomBusyError,
    StatusStore,
    StoreUnavailableError,
    Update,
)
from redis_kvpoll.aio.rank_group import AsyncRankGroup
from redis_kvpoll.engine.recovery.tracked_rooms import RECENT
from redis_kvpoll.protocol import keys, lease_commands
from redis_kvpoll.protocol.rank_commands import RankChange
from tests.support import cluster, pace, real
from tests.support.backup import Backup
from tests.support.feeds import entries, words
from tests.support.internals import executor_of, marks_of, transport_of
from tests.support.leasing import begin_long_ago, record
from tests.support.servers import rooms_on_server

BOOT, INPUT, MOVE, DONE, FAIL = (KVPoll(number) for number in (1, 2, 3, 4, 0))
A, B = 2**53 + 1, 7
RANKS = 3
ROOM = keys.rooms("default", [A])[0]


class Group:
    """A group of a few ranks under leases."""

    def __init__(self, store, group, identities):
        self.store, self.group, self.identities = store, group, identities

    async def open(self, room, request="rid", status=BOOT):
        """Open a room for every rank at once. Returns the generation."""
        found = await asyncio.gather(*(self.group.open(room, request, status, one) for one in self.identities))
        (generation,) = {opened.generation for opened in found}
        return generation

    async def say(self, room, generation, *statuses, **words):
        """Write what each rank says, in one call; None for a rank that says nothing."""
        said = [(one, status) for one, status in zip(self.identities, statuses, strict=False) if status is not None]
        return await self.group.write([RankChange(room, one, generation, status, **words) for one, status in said])

    async def clear(self, room, generation, *ranks):
        return await self.group.write(
            [RankChange(room, self.identities[rank], generation, clears=True) for rank in ranks]
        )

    async def ranks(self, room):
        """What each rank is at, as the server has it."""
        entry = await self.store.entry(room)
        return entry and entry.ranks


@asynccontextmanager
async def grouped(client, ttl=60.0, **options):
    """Leases that are not renewed during a test, if it does not say otherwise."""
    lost = []
    store = AsyncStatusStore(client, **options)
    async with store, AsyncRankGroup(store, lost.append) as group:
        identities = [await group.join(rank, RANKS, f"prefill-{rank}", ttl) for rank in range(RANKS)]
        found = Group(store, group, identities)
        found.lost = lost
        yield found


class TestOpen:
    async def test_ranks_that_open_at_once_share_two_steps(self, server, client):
        """The first opens the room, the others join it: an entry of the feed each."""
        async with grouped(server.async_client()) as it:
            await it.open(A, status=INPUT)
            assert await it.ranks(A) == dict.fromkeys(range(RANKS), INPUT)
            first, second = words(client)
            assert first[2:6] == [str(A), "Bootstrapping", "first:0", "WaitingForInput"]
            assert second[2:] == [str(A), "WaitingForInput", "rank:1,2", "WaitingForInput"]

    async def test_rank_that_opens_later_joins(self, server):
        async with grouped(server.async_client()) as it:
            first = await it.group.open(A, "rid", BOOT, it.identities[0])
            await it.say(A, first.generation, DONE)
            later = await it.group.open(A, "rid", BOOT, it.identities[2])
            assert later == first
            again = await it.group.open(A, "rid", BOOT, it.identities[0])
            assert again == first._replace(outcome=Outcome.UNCHANGED, status=DONE)
            assert await it.ranks(A) == {0: DONE, 2: BOOT}

    async def test_rank_that_has_cleared_is_refused(self, server):
        async with grouped(server.async_client()) as it:
            generation = await it.open(A)
            await it.clear(A, generation, 1)
            with pytest.raises(RoomBusyError):
                await it.group.open(A, "rid", BOOT, it.identities[1])

    async def test_room_of_another_request_is_busy_for_all(self, server):
        with StatusStore(server.store_client(), rank=0, world_size=RANKS) as other:
            other.open(A, request="other")
        async with grouped(server.async_client()) as it:
            found = await asyncio.gather(
                *(it.group.open(A, "rid", BOOT, one) for one in it.identities), return_exceptions=True
            )
            assert [type(one) for one in found] == [RoomBusyError] * RANKS

    async def test_failed_request_is_joined_as_failed(self, server):
        async with grouped(server.async_client()) as it:
            first = await it.group.open(A, "rid", BOOT, it.identities[0])
            await it.say(A, first.generation, FAIL, reason="why")
            joined = await it.group.open(A, "rid", BOOT, it.identities[1])
            assert (joined.outcome, joined.status, joined.generation) == (Outcome.FAILED, FAIL, first.generation)

    async def test_store_with_rank_has_no_group(self, server):
        async with AsyncStatusStore(server.async_client(), rank=0, world_size=2) as store:
            with pytest.raises(InvalidInputError):
                AsyncRankGroup(store)


class TestLossOfData:
    async def test_every_rank_of_every_room_is_back(self, server, client):
        async with grouped(server.async_client()) as it:
            generation, other = await it.open(A), await it.open(B, "other")
            await it.say(A, generation, DONE, MOVE)
            await it.group.write([RankChange(A, it.identities[2], generation, length=9)])
            await it.say(B, other, None, FAIL, reason="why")
            client.flushall()
            await it.group.write([RankChange(A, it.identities[1], generation, MOVE)])
            assert await it.ranks(A) == {0: DONE, 1: MOVE, 2: BOOT}
            assert client.hget(keys.prefixes("default", [A])[0], "length:2") == "9"
            assert {rank: client.hget(ROOM, f"by:{rank}") for rank in range(RANKS)} == {
                0: None,
                1: it.identities[1].incarnation,
                2: it.identities[2].incarnation,
            }
            entry = await it.store.entry(B)
            assert (entry.generation, entry.status, entry.reason, entry.request) == (other, FAIL, "why", "other")
            assert [owner.name for owner in await it.store.owners()] == [one.owner for one in it.identities]
            assert it.store.data_losses.losses == 1

    async def test_cleared_rank_counts_and_cleared_room_stays_away(self, server, client):
        async with grouped(server.async_client()) as it:
            generation, over = await it.open(A), await it.open(B, "other")
            await it.say(A, generation, DONE, DONE, DONE)
            await it.clear(A, generation, 0, 2)
            await it.clear(B, over, *range(RANKS))
            client.flushall()
            assert await it.say(A, generation, None, DONE) == [Update(Outcome.UNCHANGED, DONE)]
            entry = await it.store.entry(A)
            assert (entry.status, entry.cleared) == (DONE, {0, 2})
            assert rooms_on_server(client).keys() == {A}
            await it.clear(A, generation, 1)
            assert not rooms_on_server(client)

    @pytest.mark.parametrize("is_replayed", [False, True])
    @pytest.mark.parametrize("calls", [[(0, 1, 2)], [(0, 2), (1,)]])
    async def test_room_that_all_have_cleared_is_forgotten(self, server, client, calls, is_replayed):
        """By all members, so that no loss of data replays it; only a server that is behind gets it, for a minute."""
        async with grouped(server.async_client()) as it:
            generation = await it.open(A)
            if is_replayed:
                client.flushall()
                await it.say(A, generation, INPUT)
            for ranks in calls:
                found = await it.clear(A, generation, *ranks)
                assert {answer.outcome for answer in found} == {Outcome.CLEARED}
            assert not rooms_on_server(client)
            holders = executor_of(it.store).recovery.members.all_tracked
            untils = [rooms.in_shard("default")[A].until for rooms in holders if rooms]
            assert max(untils) <= time.monotonic() + RECENT
            assert sum(rooms.data_lost("default", 0.0) for rooms in holders) == 0

    async def test_server_that_lacks_the_last_clear_ends_the_room(self):
        with real.World("sync") as world:
            server = world.serve()
            async with Redis.from_url(server.tcp) as async_client, grouped(async_client) as it:
                generation = await it.open(A)
                await it.say(A, generation, MOVE, MOVE, MOVE)
                with server.client() as client:
                    older = Backup(client)
                await it.say(A, generation, DONE, DONE, DONE)
                await it.clear(A, generation, 0, 2)
                await it.clear(A, generation, 1)
                server = world.restart(server)
                with server.client(decode_responses=True) as client:
                    older.restore(client)
                    await it.open(B, "other")
                    assert rooms_on_server(client) == {B: "Bootstrapping"}

    async def test_rank_that_clears_again_still_counts(self, server, client):
        async with grouped(server.async_client()) as it:
            generation = await it.open(A)
            await it.say(A, generation, DONE, DONE, DONE)
            await it.clear(A, generation, 0, 2)
            assert await it.clear(A, generation, 0, 2) == [Update(Outcome.STALE, None)] * 2
            client.flushall()
            await it.say(A, generation, None, DONE)
            entry = await it.store.entry(A)
            assert (entry.status, entry.cleared) == (DONE, {0, 2})

    async def test_rank_whose_clear_detects_the_loss_still_counts(self, server, client):
        async with grouped(server.async_client()) as it:
            generation = await it.open(A)
            await it.say(A, generation, DONE, DONE, DONE)
            client.flushall()
            assert await it.clear(A, generation, 0) == [Update(Outcome.CLEARED, DONE)]
            entry = await it.store.entry(A)
            assert (entry.status, entry.cleared) == (DONE, {0})

    async def test_room_whose_clear_got_no_answer_stays_away(self, server, client, monkeypatch):
        async with grouped(server.async_client()) as it:
            generation = await it.open(A)
            perform, transport = transport_of(it.store).perform, transport_of(it.store)

            async def cut(effect):
                effect.begin()
                raise StoreUnavailableError("cut")

            monkeypatch.setattr(transport, "perform", cut)
            with pytest.raises(StoreUnavailableError):
                await it.clear(A, generation, *range(RANKS))
            monkeypatch.setattr(transport, "perform", perform)
            client.flushall()
            await it.open(B, "other")
            assert rooms_on_server(client).keys() == {B}

    async def test_failed_write_that_nobody_waits_for_is_not_logged(self, server, client, monkeypatch, caplog):
        async with grouped(server.async_client()) as it:
            generation = await it.open(A)
            failed = asyncio.Event()

            async def cut(effect):
                failed.set()
                raise StoreUnavailableError("cut")

            change = RankChange(A, it.identities[0], generation, MOVE)
            with monkeypatch.context() as patch:
                patch.setattr(transport_of(it.store), "perform", cut)
                call = asyncio.create_task(it.group.write_together([change]))
                await asyncio.sleep(0)
                call.cancel()
                await failed.wait()
                await asyncio.sleep(0.05)
            assert call.cancelled()
            del call  # it keeps what it waited for
            gc.collect()
            assert "never retrieved" not in caplog.text
            assert await it.group.write_together([change]) == [Update(Outcome.ADVANCED, MOVE)]

    async def test_rank_that_only_wrote_follows_its_opener(self, server, client):
        """In the same recovery, whichever is first among the members."""
        async with grouped(server.async_client()) as it:
            opened = await it.group.open(A, "rid", BOOT, it.identities[2])
            await it.say(A, opened.generation, INPUT, INPUT)
            await it.say(A, opened.generation, MOVE)
            client.flushall()
            assert await it.say(A, opened.generation, MOVE) == [Update(Outcome.UNCHANGED, MOVE)]
            assert await it.ranks(A) == {0: MOVE, 1: INPUT, 2: BOOT}

    async def test_write_waits_for_an_opener_elsewhere(self, server, client, monkeypatch):
        monkeypatch.setattr("redis_kvpoll.engine.recovery.tracked_rooms.CREATOR_TIMEOUT", 1e3)
        opener = AsyncStatusStore(server.async_client(), rank=2, world_size=RANKS)
        async with grouped(server.async_client()) as it, opener:
            room = await opener.open(A, request="rid")
            await it.say(A, room.generation, INPUT)
            client.flushall()
            waiting = asyncio.create_task(it.say(A, room.generation, DONE))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            await opener.open(B)
            assert await waiting == [Update(Outcome.ADVANCED, DONE)]

    async def test_rank_without_lease_is_back(self, server, client):
        async with AsyncStatusStore(server.async_client()) as store, AsyncRankGroup(store) as group:
            one = await group.join(1, 2)
            opened = await group.open(A, "rid", BOOT, one)
            client.flushall()
            assert await group.write([RankChange(A, one, opened.generation, MOVE)]) == [Update(Outcome.ADVANCED, MOVE)]
            await group.leave(one)
            assert group.is_lost(one)

    async def test_shards_of_a_cluster_are_back(self):
        shared = cluster.shared()
        store = AsyncStatusStore.from_url(shared.url, shards=3, namespace="ranks")
        async with store, AsyncRankGroup(store) as group:
            it = Group(store, group, [await group.join(rank, RANKS, f"c-{rank}", 60.0) for rank in range(RANKS)])
            rooms = {room: await it.open(room) for room in range(12)}
            for client in shared.clients:
                client.flushall()
            changes = [RankChange(room, one, rooms[room], MOVE) for one in it.identities for room in rooms]
            assert await group.write(changes) == [Update(Outcome.ADVANCED, MOVE)] * len(changes)
            assert [await it.ranks(room) for room in rooms] == [dict.fromkeys(range(RANKS), MOVE)] * 12
        for client in shared.clients:
            client.flushall()


class TestMarks:
    async def test_mark_of_each_write_is_in_the_feed(self, server, client):
        """By its words, which another server's entry with that id would not have."""
        reader = server.client()
        async with grouped(server.async_client()) as it:
            generation, other = await it.open(A), await it.open(B, "other")
            one, two, three = it.identities
            found = set()
            for changes in (
                [RankChange(A, one, generation, INPUT), RankChange(B, one, other, BOOT)],
                [RankChange(A, one, generation, DONE), RankChange(A, two, generation, MOVE)],
                [RankChange(B, two, other, FAIL, "why"), RankChange(A, three, generation, BOOT)],
                [RankChange(A, two, generation, clears=True)],
                [RankChange(A, one, generation, clears=True), RankChange(A, three, generation, clears=True)],
            ):
                await it.group.write(changes)
                mark = marks_of(it.store, "default").last_write
                feed_id, flat = entries(reader, "default")[-1]
                assert feed_id == mark.feed_id
                assert mark.is_in([(feed_id, flat)])
                assert mark.value
                assert not mark._replace(value=b"Transferred").is_in([(feed_id, flat)])
                found.add((mark.room, mark.value))
            assert found == {
                (A, b"WaitingForInput"),
                (A, b"Transferring"),
                (B, b"Failed"),
                (A, b"absent"),
            }


class TestLeases:
    async def test_leases_are_renewed_by_one_call(self, server, monkeypatch):
        """Also those that were taken at different times."""
        calls, renew = [], lease_commands.RENEW.script.sha
        async with grouped(server.async_client(), pace.seconds(1.0)) as it:
            transport = transport_of(it.store)
            perform = transport.perform

            async def counting(effect):
                words = list(getattr(effect, "words", ()))
                if renew in words:
                    calls.append(sum(word.startswith("prefill-") for word in words))
                return await perform(effect)

            monkeypatch.setattr(transport, "perform", counting)
            async with asyncio.timeout(pace.patience(60)):
                while calls[-2:] != [RANKS, RANKS]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert not any(map(it.group.is_lost, it.identities))

    async def test_lost_rank_writes_nothing_more(self, server, client):
        """The others go on, and its part fails the rooms."""
        begin_long_ago(client)
        async with grouped(server.async_client(), pace.seconds(1.0)) as it:
            await it.open(A)
            other = await it.open(B, "other")
            await it.say(B, other, None, DONE)
            client.hset(keys.leases("default"), "prefill-1", f"{int(it.identities[1].incarnation) + 1} 60000 500 1 0")
            async with asyncio.timeout(pace.patience(60)):
                while not it.lost:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert it.lost == [it.identities[1]]
            assert it.group.is_lost(it.identities[1])
            found = await it.say(B, other, MOVE, MOVE, MOVE)
            assert [type(one) for one in found] == [Update, LeaseLostError, Update]
            with pytest.raises(LeaseLostError):
                await it.group.open(99, "rid", BOOT, it.identities[1])
            client.flushall()
            await it.say(B, other, MOVE)
            assert await it.ranks(B) == {0: MOVE, 2: MOVE}

    @pytest.mark.parametrize(("is_lost", "reason"), [(True, "owner prefill-1 lost"), (False, "owner prefill-1 left")])
    async def test_rank_that_leaves_fails_its_parts(self, server, client, is_lost, reason):
        async with grouped(server.async_client()) as it:
            await it.open(A)
            await it.group.leave(it.identities[1], is_lost=is_lost)
            entry = await it.store.entry(A)
            assert (entry.status, entry.reason) == (FAIL, reason)
            assert record(client, "prefill-1") is None
            assert record(client, "prefill-0") is not None
