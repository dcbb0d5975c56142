"""Recovery of rooms with ranks, and of rooms under leases."""

from __future__ import annotations

import time

import pytest

from redis_kvpoll import KVPoll, Outcome, RoomNotFoundError, StatusStore, Update
from redis_kvpoll.engine.recovery.tracked_rooms import RECENT
from redis_kvpoll.protocol import replies, script_specs
from redis_kvpoll.protocol.keys import owned, rooms
from redis_kvpoll.protocol.script_call import Command
from tests.support import leasing, real
from tests.support.feeds import words
from tests.support.internals import execute, tracked_rooms_of
from tests.support.servers import rooms_on_server

A, B, C = 1, 2, 2**63 - 1
LOST = ("data", "", "", "")
"""In a replay: all data was lost, so no marks decide."""


CLEARS = {
    "once": lambda store, room, twin: room.clear(),
    "again": lambda store, room, twin: (room.clear(), room.clear()),
    "again without its handle": lambda store, room, twin: (room.clear(), store.clear(A)),
    "and writes late": lambda store, room, twin: (room.clear(), room.update(KVPoll.Success)),
    "after a lost reply": lambda store, room, twin: (twin.attach(room).clear(), room.clear()),
    "without a reply and writes late": lambda store, room, twin: (
        twin.attach(room).clear(),
        tracked_rooms_of(store).mark_room_clearing("default", A, ""),
        room.fail("late"),
    ),
}
"""How a rank clears. Its twin, another store of that rank, sends the call whose reply is lost."""


def outcomes(operation, rooms_of_call, reply):
    """The updates in a reply to replay.lua, which has the id of each opening, too."""
    return replies.updates(operation, rooms_of_call, [word for at, word in enumerate(reply) if at % 3 < 2])


def until_at_success(store):
    """Wait until all ranks of room A are at Success. What is still to be replayed goes before each open."""
    real.until(
        lambda: store.open(B, request="other") and store.consensus([A])[0].status is KVPoll.Success,
        "the consensus is back",
    )


class TestRanks:
    @pytest.mark.parametrize("role", ["creator", "attached", "cleared"])
    def test_replay_without_status_changes_nothing(self, server, client, role):
        """A rank that attached and has written nothing."""
        with StatusStore(server.store_client(), rank=0, world_size=2) as creator:
            generation = creator.open(A, request="rid").generation
        before = client.hgetall(rooms("default", [A])[0])
        unknown, known = ["rid", "", "", "7", role, *LOST], ["rid", "Transferring", "", "", "creator", *LOST]
        with StatusStore(server.store_client(), rank=1, world_size=2) as store:
            item = [str(generation), *unknown, str(generation), *unknown, str(generation), *known]
            replay = Command("replay", script_specs.REPLAY, [A, B, C], item, outcomes, lambda _, found: found)
            assert execute(store, replay) == [
                Update(Outcome.UNCHANGED, None),
                Update(Outcome.SKIPPED, None),
                Update(Outcome.CREATED, KVPoll.Transferring),
            ]
        assert client.hgetall(rooms("default", [A])[0]) == before
        assert sorted(rooms_on_server(client)) == [A, C]

    def test_replayed_clear_is_in_the_feed(self, server, client):
        """Also when the server lost nothing but that clear."""
        with StatusStore(server.store_client(), rank=0, world_size=2) as store:
            room = store.open(A, request="rid")
            room.update(KVPoll.Success)
            item = [str(room.generation), "rid", "Success", "", "", "cleared", *LOST]
            replay = Command("replay", script_specs.REPLAY, [A], item, outcomes, lambda _, found: found)
            assert execute(store, replay) == [Update(Outcome.UNCHANGED, None)]
            assert words(client)[-1] == ["1", "Bootstrapping", "rank:0", "absent"]
            assert execute(store, replay) == [Update(Outcome.UNCHANGED, None)]
            assert len(words(client)) == 3

    @pytest.mark.parametrize("known", [KVPoll.Transferring, KVPoll.Success])
    def test_last_replayed_clear_removes_the_room(self, server, client, known):
        """A failover lost that clear, and maybe a status before it."""
        with (
            StatusStore(server.store_client(), rank=0, world_size=2) as store,
            StatusStore(server.store_client(), rank=1, world_size=2) as other,
        ):
            room = store.open(A, request="rid")
            room.update(KVPoll.Success)
            other.open(A, request="rid").update(known)
            item = [str(room.generation), "rid", "Success", "", "", "cleared", *LOST]
            replay = Command("replay", script_specs.REPLAY, [A], item, outcomes, lambda _, found: found)
            execute(store, replay)
            assert words(client)[-1][2:] == ["rank:0", "absent"]
            execute(other, replay)
            assert words(client)[-1] == ["1", "absent"]
            assert A not in rooms_on_server(client)
            assert other.open(A, request="next").status() is KVPoll.Bootstrapping

    def test_replayed_higher_generation_restarts_room_in_feed(self, server, client):
        with StatusStore(server.store_client(), rank=0, world_size=2) as store:
            former = store.open(A, request="former").generation
        later = str(former + 1)
        with StatusStore(server.store_client(), rank=1, world_size=2) as store:
            item = [later, "rid", "Transferring", "", "", "creator", *LOST]
            execute(store, Command("replay", script_specs.REPLAY, [A], item, outcomes, lambda _, found: found))
        assert [fields[2:] for fields in words(client)] == [
            ["1", "Bootstrapping", "first:0", "Bootstrapping", "first", str(former), "request", "former"],
            ["1", "Bootstrapping", "first:1", "Transferring", "first", later, "request", "rid"],
        ]

    def test_each_rank_recovers_its_own_status(self, make_store, client):
        stores = [make_store(rank=rank, world_size=2) for rank in range(2)]
        held = [store.open(A, request="rid") for store in stores]
        assert held[0] == held[1]
        held[0].update(KVPoll.Success)
        held[1].update(KVPoll.Transferring)
        client.flushall()
        assert held[1].status() is KVPoll.Transferring
        assert held[0].status() is KVPoll.Success
        assert stores[0].collect(A) == {0: KVPoll.Success, 1: KVPoll.Transferring}
        assert stores[0].consensus([A])[0].status is KVPoll.Transferring

    def test_consensus_version_grows_after_loss(self, make_store, client):
        stores = [make_store(rank=rank, world_size=2) for rank in range(2)]
        held = [store.open(A, request="rid") for store in stores]
        before = stores[0].consensus([A])[0]
        for _ in range(2):
            client.flushall()
            for room in held:
                room.status()
                after = stores[0].consensus([A])[0]
                assert after.generation == before.generation
                assert after.version > before.version
                before = after

    @pytest.mark.parametrize("clear", CLEARS)
    @pytest.mark.parametrize("first", [0, 1])
    def test_cleared_rank_still_counts_after_recovery(self, make_store, client, first, clear):
        stores = [make_store(rank=rank, world_size=2) for rank in range(2)]
        held = [store.open(A, request="rid") for store in stores]
        for room in held:
            room.update(KVPoll.Success)
        CLEARS[clear](stores[0], held[0], make_store(rank=0, world_size=2))
        client.flushall()
        for rank in (first, 1 - first):
            stores[rank].open(B, request="other")  # a call, by which it detects the loss
        real.until(lambda: held[1].status() and held[0].status() is None, "both have replayed")
        until_at_success(stores[0])
        assert held[0].update(KVPoll.Success).outcome is Outcome.STALE
        held[1].clear()
        assert A not in rooms_on_server(client)

    @pytest.mark.parametrize("first", [0, 1])
    def test_cleared_rank_of_a_failed_room_stays_cleared(self, make_store, client, first):
        """The room failed after that: the rank does not see it again."""
        stores = [make_store(rank=rank, world_size=2) for rank in range(2)]
        held = [store.open(A, request="rid") for store in stores]
        held[0].update(KVPoll.Success)
        held[0].clear()
        held[1].fail("why")
        client.flushall()
        for rank in (first, 1 - first):
            stores[rank].open(B, request="other")  # a call, by which it detects the loss
        real.until(lambda: held[0].status() is None and 0 in stores[1].collect(A), "both have replayed")
        assert client.hget(rooms("default", [A])[0], "counts") == "0 0 0 1 1 1"
        assert stores[1].collect(A) == {0: KVPoll.Success, 1: KVPoll.Failed}
        assert ["rank:0", "absent"] in [entry[-2:] for entry in words(client)]
        assert held[0].update(KVPoll.Success).outcome is Outcome.STALE
        assert held[1].status() is KVPoll.Failed
        held[1].clear()
        assert A not in rooms_on_server(client)

    @pytest.mark.parametrize("plain", [False, True])
    def test_rank_whose_clear_detects_the_loss_still_counts(self, make_store, client, plain):
        """It does not create the room that it clears. Once another rank has done that, it merges its status."""
        stores = [make_store(rank=rank, world_size=2) for rank in range(2)]
        held = [store.open(A, request="rid") for store in stores]
        for room in held:
            room.update(KVPoll.Success)
        client.flushall()
        if plain:
            assert stores[0].clear(A) is None
        else:
            assert held[0].clear() == Update(Outcome.STALE, None)
        assert A not in rooms_on_server(client)
        stores[1].open(B, request="other")
        until_at_success(stores[0])
        held[1].clear()
        assert A not in rooms_on_server(client)

    @pytest.mark.parametrize("plain", [False, True])
    def test_rank_that_clears_first_after_a_loss_still_counts(self, make_store, client, plain):
        """Its clear does not take the room away from a rank that has yet to replay it."""
        stores = [make_store(rank=rank, world_size=2) for rank in range(2)]
        held = [store.open(A, request="rid") for store in stores]
        held[0].update(KVPoll.Success)
        held[1].update(KVPoll.Transferring)
        client.flushall()
        assert held[0].status() is KVPoll.Success
        if plain:
            assert stores[0].clear(A) is KVPoll.Success
        else:
            assert held[0].clear() == Update(Outcome.CLEARED, KVPoll.Success)
        assert held[1].update(KVPoll.Success) == Update(Outcome.ADVANCED, KVPoll.Success)
        assert stores[1].consensus([A])[0].status is KVPoll.Success
        held[1].clear()
        assert A not in rooms_on_server(client)

    def test_cleared_room_awaits_a_rank_until_its_ttl(self, make_store, client):
        """If that rank never replays it, no lease keeps it."""
        keeper = leasing.ManualLease(make_store(rank=0, world_size=2)).take()
        room = keeper.store.open(A, request="rid")
        client.flushall()
        assert room.status() is KVPoll.Bootstrapping
        assert client.zscore(owned("default"), str(A)) is not None
        room.clear()
        assert 0 < client.pttl(rooms("default", [A])[0]) <= 900_000
        assert client.zscore(owned("default"), str(A)) is None

    def test_replayed_clear_lists_the_room_under_no_lease(self, make_store, client):
        """The rank for which it waits never comes: a lease that lists the room would keep it."""
        first, second = (
            leasing.ManualLease(make_store(rank=rank, world_size=3), f"prefill-{rank}").take() for rank in range(2)
        )
        held = [lease.store.open(A, request="rid") for lease in (first, second)]
        held[1].update(KVPoll.Transferring)
        held[1].clear()
        client.flushall()
        assert held[0].status() is KVPoll.Bootstrapping
        held[0].clear()
        second.store.open(B)
        assert client.hget(rooms("default", [A])[0], "cleared:1") == "Transferring"
        assert client.zscore(owned("default"), str(A)) is None

    def test_live_rank_of_a_room_that_failed_counts(self, make_store, client):
        """Another rank has replayed it as Failed: this one sees that, as if it opened the room now."""
        stores = [make_store(rank=rank, world_size=2) for rank in range(2)]
        held = [store.open(A, request="rid") for store in stores]
        held[1].update(KVPoll.Transferring)
        held[0].fail("why")
        client.flushall()
        for store in stores:
            store.open(B, request="other")  # a call, by which it detects the loss
        assert stores[0].collect(A) == {0: KVPoll.Failed, 1: KVPoll.Failed}
        assert stores[1].failure_reason(A) == "why"
        held[0].clear()
        assert held[1].status() is KVPoll.Failed
        held[1].clear()
        assert A not in rooms_on_server(client)

    def test_last_rank_that_clears_forgets_the_room(self, make_store, client):
        stores = [make_store(rank=rank, world_size=2) for rank in range(2)]
        held = [store.open(A, request="rid") for store in stores]
        held[0].clear()
        assert held[1].clear() == Update(Outcome.CLEARED, KVPoll.Bootstrapping)
        assert [tracked_rooms_of(store).data_lost("default", 0.0) for store in stores] == [1, 0]
        assert tracked_rooms_of(stores[1]).in_shard("default")[A].until <= time.monotonic() + RECENT
        assert held[1].clear() == Update(Outcome.STALE, None)

    def test_later_generation_by_an_adopted_handle_is_recovered(self, make_store, client):
        """A rank that has cleared a room still tracks it, as its last status counts; then it is told of the next."""
        stores = [make_store(rank=rank, world_size=2) for rank in range(2)]
        for room in [store.open(A, request="former") for store in stores]:
            room.clear()
        later = stores[0].attach(stores[1].open(A, request="later"))
        later.update(KVPoll.WaitingForInput)
        client.flushall()
        stores[1].open(B)
        stores[0].open(C)
        assert stores[0].collect(A) == {0: KVPoll.WaitingForInput, 1: KVPoll.Bootstrapping}


class TestLostLeases:
    """A lost lease stays lost when the server has lost its data."""

    @pytest.mark.parametrize("knows", [True, False])
    def test_former_incarnation_returning_first_takes_nothing(self, make_store, client, knows):
        former = leasing.ManualLease(make_store()).take()
        former.store.open(A)
        later = leasing.ManualLease(make_store()).take()
        room = later.store.open(B)
        if knows:
            assert former.heartbeat().lost
        client.flushall()
        with pytest.raises(RoomNotFoundError):
            former.store.attach(C)
        assert room.update(KVPoll.Success).outcome is Outcome.ADVANCED
        assert not later.heartbeat().lost
        assert former.heartbeat().lost
        assert B in rooms_on_server(client)
