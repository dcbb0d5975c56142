"""A server loses its data, or the last of it: who holds rooms brings them back, and nothing else comes back."""

from __future__ import annotations

import threading
import time

import pytest

from redis_kvpoll import KVPoll, NamespaceMismatchError, Outcome, RoomNotFoundError, StatusStore, Update
from redis_kvpoll.engine.effects import Sleep
from redis_kvpoll.protocol import fenced_commands, replies, script_specs
from redis_kvpoll.protocol.keys import epoch, feed, prefixes, rooms
from redis_kvpoll.protocol.script_call import Command
from redis_kvpoll.sync.dispatcher import drive
from tests.support import leasing, pace, real
from tests.support.feeds import words
from tests.support.internals import execute, executor_of, tracked_rooms_of

A, B, C = 1, 2, 2**63 - 1


def on_server(client, tag="default"):
    """The rooms that are there, without looking through a store: that would bring back what it holds."""
    return {
        int(key.rpartition(":")[2]): client.hget(key, "status") for key in client.scan_iter(f"kvpoll:{{{tag}}}:room:*")
    }


class TestFlushAll:
    """FLUSHALL: all data is gone, and no connection breaks."""

    def test_first_call_recovers_all_rooms(self, store, client):
        held = {room: store.open(room, request=f"rid {room}") for room in (A, B, C)}
        held[B].update(KVPoll.Transferring)
        held[C].update(KVPoll.Success)
        before = {room: client.hgetall(rooms("default", [room])[0]) for room in held}
        client.flushall()
        assert held[A].status() is KVPoll.Bootstrapping
        assert on_server(client) == {A: "Bootstrapping", B: "Transferring", C: "Success"}
        for room, fields in before.items():
            after = client.hgetall(rooms("default", [room])[0])
            assert {n: v for n, v in after.items() if not n.endswith("_ms")} == {
                n: v for n, v in fields.items() if not n.endswith("_ms")
            }

    def test_call_that_detects_loss_returns_its_usual_result(self, store, client):
        room = store.open(A)
        room.update(KVPoll.WaitingForInput)
        client.flushall()
        assert room.update(KVPoll.Transferring) == Update(Outcome.ADVANCED, KVPoll.Transferring)
        client.flushall()
        assert room.fail("why") == Update(Outcome.FAILED, KVPoll.Failed)
        client.flushall()
        assert room.clear() == Update(Outcome.STALE, None)
        assert on_server(client) == {}

    def test_reasons_and_prefix_lengths_are_recovered(self, store, client):
        room, other = store.open(A), store.open(B)
        room.set_decode_prefix_len(7)
        other.fail("why")
        client.flushall()
        assert room.decode_prefix_len() == 7
        assert store.failure_reason(B) == "why"

    def test_prefix_length_recorded_after_loss_is_kept(self, make_store, client):
        room = make_store().open(A)
        room.status()
        client.flushall()
        make_store().set_decode_prefix_len(A, 7)
        assert room.decode_prefix_len() == 7

    def test_prefix_key_of_another_type_blocks_no_recovery(self, make_store, client):
        stores = [make_store(), make_store()]
        held = [store.open(A, request="rid") for store in stores]
        held[0].set_decode_prefix_len(5)
        client.flushall()
        assert held[1].status() is KVPoll.Bootstrapping
        key = prefixes("default", [A])[0]
        client.set(key, "made by hand", ex=60)
        assert stores[0].open(B).status() is KVPoll.Bootstrapping
        assert client.get(key) == "made by hand"

    def test_cleared_rooms_are_not_recovered(self, store, client):
        rooms_held = [store.open(room) for room in range(6)]
        rooms_held[0].clear()
        store.clear(1)
        store.clear_many([2, 3])
        client.flushall()
        assert rooms_held[5].status() is KVPoll.Bootstrapping
        assert sorted(on_server(client)) == [4, 5]

    def test_room_being_cleared_is_not_recovered(self, store, client):
        """Not even for a moment: others would hear of it."""
        room, other = store.open(A), store.open(B)
        client.flushall()
        assert room.clear() == Update(Outcome.STALE, None)
        told = {name for _, fields in client.xrange(feed("default")) for name in fields}
        assert str(other.id) in told
        assert str(room.id) not in told

    def test_stale_clear_leaves_newer_generation_tracked(self, store, client):
        old = store.open(A, request="old")
        old.fail("why")
        new = store.open(A, request="new")
        assert old.clear().outcome is Outcome.STALE
        client.flushall()
        assert new.update(KVPoll.Transferring) == Update(Outcome.ADVANCED, KVPoll.Transferring)

    def test_room_seen_cleared_by_others_is_not_recovered(self, make_store, client):
        store = make_store()
        room, witness = store.open(A), store.open(B)
        make_store().clear(A)
        assert room.status() is None
        client.flushall()
        assert witness.status() is KVPoll.Bootstrapping
        assert sorted(on_server(client)) == [B]

    def test_room_reopened_by_others_is_left_alone(self, make_store, client):
        store, other = make_store(), make_store()
        old, witness = store.open(A, request="old"), store.open(B)
        old.update(KVPoll.Transferring)
        client.flushall()
        new = other.open(A, request="new")
        assert witness.status() is KVPoll.Bootstrapping
        assert new.status() is KVPoll.Bootstrapping
        assert old.update(KVPoll.Success) == Update(Outcome.STALE, KVPoll.Bootstrapping)
        assert new.generation > old.generation

    def test_plain_writes_to_opened_room_are_recovered(self, store, client):
        room = store.open(A)
        store.update_status(A, KVPoll.Transferring)
        store.abort(A, "by hand")
        client.flushall()
        assert room.status() is KVPoll.Failed
        assert store.failure_reason(A) == "by hand"

    def test_settings_are_recovered(self, make_store, client):
        room = make_store(policy="strict").open(A)
        client.flushall()
        room.update(KVPoll.Transferring)
        with pytest.raises(NamespaceMismatchError, match="policy=strict"):
            make_store(policy="compat").get(A)

    def test_repeated_losses_are_recovered(self, store, client):
        room = store.open(A)
        for status in (KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Success):
            client.flushall()
            assert room.update(status) == Update(Outcome.ADVANCED, status)

    def test_rooms_in_many_shards_are_recovered(self, make_store, client):
        store = make_store(shards=4)
        held = [store.open(room) for room in range(60)]
        client.flushall()
        assert [room.status() for room in held] == [KVPoll.Bootstrapping] * 60
        assert sum(store.counts().values()) == 60

    def test_more_rooms_than_one_call_holds_are_recovered(self, store, client):
        held = [store.open(room) for room in range(1100)]
        client.flushall()
        held[0].update(KVPoll.Success)
        assert len(on_server(client)) == 1100

    def test_expired_room_is_not_recovered(self, make_store, client):
        store = make_store(ttl=100.0)
        store.open(A)
        tracked_rooms_of(store).in_shard("default")[A].until = 0.0
        room = store.open(B)
        client.flushall()
        assert room.status() is KVPoll.Bootstrapping
        assert sorted(on_server(client)) == [B]

    def test_read_recovers_rooms_too(self, store, client):
        store.open(A)
        store.open(B).status()
        client.flushall()
        with pytest.raises(RoomNotFoundError):
            store.attach(C)
        assert sorted(on_server(client)) == [A, B]


class TestAttachedRooms:
    """Who has attached a room does not create it, but waits for its opener, and adds what it knows."""

    def test_attached_write_waits_for_creator(self, make_store, client):
        store, other = make_store(), make_store()
        room = store.open(A)
        room.update(KVPoll.Transferring)
        guest = other.attach(A)
        client.flushall()
        opener = threading.Timer(0.2, make_opener_come_back, (client, room))
        opener.start()
        assert guest.update(KVPoll.Success) == Update(Outcome.ADVANCED, KVPoll.Success)
        opener.join()

    def test_attached_write_without_creator_ends_stale(self, make_store, client):
        guest = make_opened(make_store, deadline=pace.seconds(0.8))
        client.flushall()
        assert guest.update(KVPoll.Success) == Update(Outcome.STALE, None)
        assert on_server(client) == {}

    def test_wait_for_creator_of_cleared_room_ends(self, make_store, client, monkeypatch):
        monkeypatch.setattr("redis_kvpoll.engine.executor.CREATOR_POLL_INTERVAL", 60.0)  # no call waits for the opener
        store = make_store()
        make_store().open(A)
        guest = store.attach(A)
        client.flushall()
        guest.update(KVPoll.Success)
        assert guest.clear() == Update(Outcome.STALE, None)
        held = tracked_rooms_of(store)
        assert (len(held), list(held.awaiting_shards)) == (1, ["default"])
        monkeypatch.setattr("redis_kvpoll.engine.tracked_rooms.CREATOR_TIMEOUT", 0.0)
        real.until(lambda: store.poll([B]) and not held.awaiting_shards, "the end of it")
        assert len(held) == 0

    def test_wait_for_creator_ends_at_call_deadline(self, monkeypatch):
        with StatusStore.from_url("memory://", deadline=5.0) as store:
            executor, stale = executor_of(store), Update(Outcome.STALE, None)
            monkeypatch.setattr(executor.tracked_rooms, "awaits_creator", lambda room: True)
            command = fenced_commands.update(A, 1763800000000123, KVPoll.Success)
            assert type(next(executor.await_creator(command, stale, time.monotonic()))) is Sleep
            assert drive(executor.await_creator(command, stale, time.monotonic() - 5.0), None) == stale

    def test_attached_store_recovers_what_only_it_knows(self, make_store, client):
        store, other = make_store(), make_store()
        room = store.open(A)
        guest = other.attach(A)
        guest.update(KVPoll.Success)
        client.flushall()
        assert room.status() is KVPoll.Bootstrapping
        assert guest.status() is KVPoll.Success
        assert room.status() is KVPoll.Success

    def test_attached_store_that_returns_first_replays_later(self, make_store, client):
        store, other = make_store(), make_store(deadline=pace.seconds(0.2))
        room = store.open(A)
        other.attach(A).update(KVPoll.Success)
        client.flushall()
        with pytest.raises(RoomNotFoundError):
            other.attach(B)  # a call, by which it notices the loss
        assert room.status() is KVPoll.Bootstrapping
        real.until(lambda: other.poll([B]) and room.status() is KVPoll.Success, "the guest's word")


def make_opened(make_store, **options):
    """A handle whose opener will never call again."""
    make_store().open(A)
    return make_store(**options).attach(A)


def make_opener_come_back(client, room):
    """As the opener's next call would, but from another thread than the test's, whose event loop is busy."""
    key = rooms("default", [room.id])[0]
    client.hset(
        key, mapping={"status": "Transferring", "generation": str(room.generation), "opened_ms": "1", "updated_ms": "1"}
    )
    client.pexpire(key, 60_000)


class TestReconnect:
    """Connections break; the server may be another one then, with older data and the same epoch."""

    def test_same_server_gets_no_replay(self, world):
        server = world.shared()
        store, other = world.open(server.tcp), world.open(server.tcp)
        room, witness = store.open(A), store.open(B)
        witness.status()
        other.clear(A)
        with server.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
            assert witness.status() is KVPoll.Bootstrapping
            assert not client.exists(rooms("default", [A])[0])
        assert room.update(KVPoll.Success) == Update(Outcome.STALE, None)

    def test_other_server_with_same_epoch_gets_full_replay(self, world, tmp_path):
        options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
        server = world.serve(*options)
        store = world.open(server.tcp)
        room, witness = store.open(A), store.open(B)
        witness.status()
        with server.client() as client:
            client.delete(rooms("default", [A])[0])  # as a replica that lags would not have it
            before = client.hget(epoch("default"), "epoch")
        server = world.restart(server, *options)
        assert witness.status() is KVPoll.Bootstrapping
        with server.client() as client:
            assert client.hget(epoch("default"), "epoch") == before
            assert client.exists(rooms("default", [A])[0])
        assert room.update(KVPoll.Success).outcome is Outcome.ADVANCED

    @pytest.mark.parametrize("number", [3, 1500])
    def test_empty_server_gets_full_replay(self, world, number):
        server = world.serve()
        store = world.open(server.tcp, deadline=60.0)
        held = [store.open(room) for room in range(number)]
        held[0].clear()
        server = world.restart(server)
        assert held[-1].update(KVPoll.Success) == Update(Outcome.ADVANCED, KVPoll.Success)
        assert sum(store.counts().values()) == number - 1
        assert held[0].update(KVPoll.Success) == Update(Outcome.STALE, None)


class TestRanks:
    @pytest.mark.parametrize("role", ["creator", "attached", "cleared"])
    def test_replay_without_status_changes_nothing(self, server, client, role):
        """As a rank that has attached before it wrote anything."""
        with StatusStore(server.store_client(), rank=0, world_size=2) as opener:
            generation = opener.open(A, request="rid").generation
        before = client.hgetall(rooms("default", [A])[0])
        unknown, known = ["rid", "", "", "7", role], ["rid", "Transferring", "", "", "creator"]
        with StatusStore(server.store_client(), rank=1, world_size=2) as store:
            item = [str(generation), *unknown, str(generation), *unknown, str(generation), *known]
            said = Command("replay", script_specs.REPLAY, [A, B, C], item, replies.updates, lambda _, found: found)
            assert execute(store, said) == [
                Update(Outcome.UNCHANGED, None),
                Update(Outcome.SKIPPED, None),
                Update(Outcome.CREATED, KVPoll.Transferring),
            ]
        assert client.hgetall(rooms("default", [A])[0]) == before
        assert sorted(on_server(client)) == [A, C]

    def test_replayed_clear_is_in_the_feed(self, server, client):
        """Also where the server went back to just before it, and nothing else changes."""
        with StatusStore(server.store_client(), rank=0, world_size=2) as store:
            room = store.open(A, request="rid")
            room.update(KVPoll.Success)
            item = [str(room.generation), "rid", "Success", "", "", "cleared"]
            said = Command("replay", script_specs.REPLAY, [A], item, replies.updates, lambda _, found: found)
            assert execute(store, said) == [Update(Outcome.UNCHANGED, None)]
            assert words(client)[-1] == ["1", "Bootstrapping", "rank:0", "absent"]
            assert execute(store, said) == [Update(Outcome.UNCHANGED, None)]
            assert len(words(client)) == 3

    def test_replayed_higher_generation_restarts_room_in_feed(self, server, client):
        with StatusStore(server.store_client(), rank=0, world_size=2) as store:
            later = str(store.open(A, request="former").generation + 1)
        with StatusStore(server.store_client(), rank=1, world_size=2) as store:
            item = [later, "rid", "Transferring", "", "", "creator"]
            execute(store, Command("replay", script_specs.REPLAY, [A], item, replies.updates, lambda _, found: found))
        assert [fields[2:] for fields in words(client)] == [
            ["1", "Bootstrapping", "first:0", "Bootstrapping"],
            ["1", "Bootstrapping", "first:1", "Transferring"],
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

    @pytest.mark.parametrize("first", [0, 1])
    def test_cleared_rank_still_counts_after_recovery(self, make_store, client, first):
        stores = [make_store(rank=rank, world_size=2) for rank in range(2)]
        held = [store.open(A, request="rid") for store in stores]
        for room in held:
            room.update(KVPoll.Success)
        held[0].clear()
        client.flushall()
        for rank in (first, 1 - first):
            stores[rank].open(B, request="other")  # a call, by which it notices
        real.until(lambda: held[1].status() and held[0].status() is None, "all to be said")
        real.until(
            lambda: stores[0].open(B, request="other") and stores[0].consensus([A])[0].status is KVPoll.Success,
            "the consensus as it was",
        )
        assert held[0].update(KVPoll.Success).outcome is Outcome.STALE
        held[1].clear()
        assert A not in on_server(client)


class TestLostLeases:
    """A lease that is lost stays lost when the server no longer knows that it was."""

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
        assert B in on_server(client)
