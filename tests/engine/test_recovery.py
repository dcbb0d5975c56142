"""After a loss of data, the stores that track rooms recover them, and nothing else."""

from __future__ import annotations

import threading
import time

import pytest

from redis_kvpoll import KVPoll, NamespaceMismatchError, Outcome, RoomNotFoundError, StatusStore, Update
from redis_kvpoll.engine.effects import Sleep
from redis_kvpoll.protocol import fenced_commands
from redis_kvpoll.protocol.keys import epoch, feed, prefixes, rooms
from redis_kvpoll.sync.dispatcher import drive
from tests.support import leasing, pace, real
from tests.support.backup import Backup
from tests.support.internals import executor_of, tracked_rooms_of
from tests.support.servers import rooms_on_server

A, B, C = 1, 2, 2**64 - 1


def without_times(fields):
    """The fields of a room but for those that are times, or the id of an entry, which is one."""
    return {name: value for name, value in fields.items() if not name.endswith("_ms") and name != "opened"}


class TestFlushAll:
    """FLUSHALL: all data is gone, and no connection breaks."""

    def test_first_call_recovers_all_rooms(self, store, client):
        held = {room: store.open(room, request=f"rid {room}") for room in (A, B, C)}
        held[B].update(KVPoll.Transferring)
        held[C].update(KVPoll.Success)
        before = {room: client.hgetall(rooms("default", [room])[0]) for room in held}
        client.flushall()
        assert held[A].status() is KVPoll.Bootstrapping
        assert rooms_on_server(client) == {A: "Bootstrapping", B: "Transferring", C: "Success"}
        for room, fields in before.items():
            after = client.hgetall(rooms("default", [room])[0])
            assert without_times(after) == without_times(fields) | {"replayed": "1"}

    def test_call_that_detects_loss_returns_its_usual_result(self, store, client):
        room = store.open(A)
        room.update(KVPoll.WaitingForInput)
        client.flushall()
        assert room.update(KVPoll.Transferring) == Update(Outcome.ADVANCED, KVPoll.Transferring)
        client.flushall()
        assert room.fail("why") == Update(Outcome.FAILED, KVPoll.Failed)
        client.flushall()
        assert room.clear() == Update(Outcome.STALE, None)
        assert rooms_on_server(client) == {}

    def test_room_attached_and_then_opened_keeps_its_request(self, make_store, client):
        store, other = make_store(), make_store()
        opened = other.open(A, request="rid")
        store.attach(opened).update(KVPoll.Bootstrapping)
        room = store.open(A, request="rid")
        client.flushall()
        assert room.status() is KVPoll.Bootstrapping
        assert store.entry(A).request == "rid"
        assert opened.status() is KVPoll.Bootstrapping

    def test_reasons_and_prefix_lengths_are_recovered(self, store, client):
        room, other = store.open(A), store.open(B)
        room.set_decode_prefix_len(7)
        other.fail("why")
        client.flushall()
        assert room.decode_prefix_len() == 7
        assert store.failure_reason(B) == "why"

    def test_reason_ends_with_its_failure(self, make_store, client):
        """Under compat, a plain write takes a room out of Failed."""
        store = make_store(policy="compat")
        room = store.open(A)
        room.fail("former")
        store.update_status(A, KVPoll.Transferring)
        room.update(KVPoll.Failed)
        assert store.failure_reason(A) is None
        client.flushall()
        assert room.status() is KVPoll.Failed
        assert store.failure_reason(A) is None

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
        client.set(key, "made by hand", ex=600)
        assert stores[0].open(B).status() is KVPoll.Bootstrapping
        assert client.get(key) == "made by hand"

    def test_cleared_rooms_are_not_recovered(self, store, client):
        rooms_held = [store.open(room) for room in range(6)]
        rooms_held[0].clear()
        store.clear(1)
        store.clear_many([2, 3])
        client.flushall()
        assert rooms_held[5].status() is KVPoll.Bootstrapping
        assert sorted(rooms_on_server(client)) == [4, 5]

    def test_room_being_cleared_is_not_recovered(self, store, client):
        """Not even for a moment: mirrors would see it."""
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
        assert sorted(rooms_on_server(client)) == [B]

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

    @pytest.mark.parametrize("ranks", [{}, {"rank": 0, "world_size": 2}], ids=["plain", "rank"])
    def test_room_that_a_plain_update_created_anew_is_not(self, make_store, client, ranks):
        """The generation that was tracked is over, and plain rooms are not recovered."""
        store = make_store(**ranks)
        old, witness = store.open(A, request="old"), store.open(B)
        make_store().clear(A)
        assert store.update_status(A, KVPoll.Bootstrapping) == Update(Outcome.CREATED, KVPoll.Bootstrapping)
        client.flushall()
        assert witness.status() is KVPoll.Bootstrapping
        assert old.update(KVPoll.Transferring).outcome is Outcome.STALE
        assert sorted(rooms_on_server(client)) == [B]

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
        assert len(rooms_on_server(client)) == 1100

    def test_expired_room_is_not_recovered(self, make_store, client):
        store = make_store(ttl=100.0)
        store.open(A)
        tracked_rooms_of(store).in_shard("default")[A].until = 0.0
        room = store.open(B)
        client.flushall()
        assert room.status() is KVPoll.Bootstrapping
        assert sorted(rooms_on_server(client)) == [B]

    def test_read_recovers_rooms_too(self, store, client):
        store.open(A)
        store.open(B).status()
        client.flushall()
        with pytest.raises(RoomNotFoundError):
            store.attach(C)
        assert sorted(rooms_on_server(client)) == [A, B]


class TestAttachedRooms:
    """A store that has attached a room does not create it: it waits for the creator, then replays what it knows."""

    def test_attached_write_waits_for_creator(self, make_store, client, monkeypatch):
        monkeypatch.setattr("redis_kvpoll.engine.recovery.tracked_rooms.CREATOR_TIMEOUT", 1e3)
        store, other = make_store(), make_store()
        room = store.open(A)
        room.update(KVPoll.Transferring)
        attached = other.attach(A)
        client.flushall()
        creator = threading.Timer(0.2, return_creator, (client, room))
        creator.start()
        assert attached.update(KVPoll.Success) == Update(Outcome.ADVANCED, KVPoll.Success)
        creator.join()

    def test_attached_write_without_creator_ends_stale(self, make_store, client, monkeypatch):
        deadline = pace.seconds(2)
        monkeypatch.setattr("redis_kvpoll.engine.executor.CREATOR_POLL_INTERVAL", deadline * 0.4)  # one more call
        attached = make_opened(make_store, deadline=deadline)
        client.flushall()
        assert attached.update(KVPoll.Success) == Update(Outcome.STALE, None)
        assert rooms_on_server(client) == {}

    def test_wait_for_creator_of_cleared_room_ends(self, make_store, client, monkeypatch):
        monkeypatch.setattr("redis_kvpoll.engine.executor.CREATOR_POLL_INTERVAL", 60.0)  # no call waits for the creator
        store = make_store()
        make_store().open(A)
        attached = store.attach(A)
        client.flushall()
        attached.update(KVPoll.Success)
        assert attached.clear() == Update(Outcome.STALE, None)
        held = tracked_rooms_of(store)
        assert (len(held), list(held.awaiting_shards)) == (1, ["default"])
        monkeypatch.setattr("redis_kvpoll.engine.recovery.tracked_rooms.CREATOR_TIMEOUT", 0.0)
        real.until(lambda: store.poll([B]) and not held.awaiting_shards, "the end of it")
        assert len(held) == 0

    def test_wait_for_creator_ends_at_call_deadline(self, monkeypatch):
        with StatusStore.from_url("memory://", deadline=5.0) as store:
            executor, stale = executor_of(store), Update(Outcome.STALE, None)
            monkeypatch.setattr(executor.recovery.tracked_rooms, "awaits_creator", lambda room: True)
            command = fenced_commands.update(A, 1763800000000123, KVPoll.Success)
            assert type(next(executor.await_creator(command, stale, time.monotonic()))) is Sleep
            assert drive(executor.await_creator(command, stale, time.monotonic() - 5.0), None) == stale

    def test_attached_store_recovers_what_only_it_knows(self, make_store, client):
        store, other = make_store(), make_store()
        room = store.open(A)
        attached = other.attach(A)
        attached.update(KVPoll.Success)
        client.flushall()
        assert room.status() is KVPoll.Bootstrapping
        assert attached.status() is KVPoll.Success
        assert room.status() is KVPoll.Success

    def test_attached_store_that_returns_first_replays_later(self, make_store, client):
        store, other = make_store(), make_store(deadline=pace.seconds(0.2))
        room = store.open(A)
        other.attach(A).update(KVPoll.Success)
        client.flushall()
        with pytest.raises(RoomNotFoundError):
            other.attach(B)  # a call, by which it notices the loss
        assert room.status() is KVPoll.Bootstrapping
        real.until(lambda: other.poll([B]) and room.status() is KVPoll.Success, "the attached's word")


def make_opened(make_store, **options):
    """A handle whose creator makes no further call."""
    make_store().open(A)
    return make_store(**options).attach(A)


def return_creator(client, room):
    """Create the room as the creator's next call would, but from another thread: the test's event loop is busy."""
    key = rooms("default", [room.id])[0]
    client.hset(
        key, mapping={"status": "Transferring", "generation": str(room.generation), "opened_ms": "1", "updated_ms": "1"}
    )
    client.pexpire(key, 600_000)


class TestReconnect:
    """Connections break; the next server may be another one, with older data and the same epoch."""

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

    def test_other_server_with_all_data_gets_no_replay(self, world, tmp_path):
        """A restart with data on disk: what others have cleared in the meantime does not come back."""
        options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
        server = world.serve(*options)
        store, other = world.open(server.tcp), world.open(server.tcp)
        room, witness = store.open(A), store.open(B)
        witness.status()
        other.clear(A)
        server = world.restart(server, *options)
        assert witness.status() is KVPoll.Bootstrapping
        with server.client(decode_responses=True) as client:
            assert rooms_on_server(client) == {B: "Bootstrapping"}
            assert not client.hexists(rooms("default", [B])[0], "replayed")
        assert room.update(KVPoll.Success) == Update(Outcome.STALE, None)
        assert store.data_losses.losses == 0

    def test_other_server_with_older_data_gets_lost_rooms(self, world):
        """A replica that lagged has the same epoch, and not the newest rooms."""
        server = world.serve()
        store = world.open(server.tcp)
        witness = store.open(B)
        witness.status()
        with server.client() as client:
            older, before = Backup(client), client.hget(epoch("default"), "epoch")
        room = store.open(A)
        witness.update(KVPoll.Transferring)
        server = world.restart(server)
        with server.client(decode_responses=True) as client:
            older.restore(client)
            assert witness.status() is KVPoll.Transferring
            assert client.hget(epoch("default"), "epoch") == before.decode()
            assert rooms_on_server(client) == {A: "Bootstrapping", B: "Transferring"}
            replayed = {number: client.hexists(rooms("default", [number])[0], "replayed") for number in (A, B)}
            assert replayed == {A: True, B: False}, "the room that had survived was not created again"
        assert room.update(KVPoll.Success).outcome is Outcome.ADVANCED
        assert store.data_losses == (1, 2)

    def test_other_server_gets_the_status_of_a_rank_that_clears(self, world):
        """The others count it, also if the clear is the first call there."""
        server = world.serve()
        stores = [world.open(server.tcp, rank=rank, world_size=2) for rank in range(2)]
        held = [store.open(A, request="rid") for store in stores]
        held[1].update(KVPoll.Success)
        with server.client() as client:
            older = Backup(client)
        held[0].update(KVPoll.Success)
        server = world.restart(server)
        with server.client() as client:
            older.restore(client)
        assert held[0].clear() == Update(Outcome.CLEARED, KVPoll.Success)
        assert stores[1].consensus([A])[0].status is KVPoll.Success

    def test_other_server_that_lacks_a_length_gets_it(self, world):
        """No entry of the feed tells it: the heartbeats before and after it find the same end."""
        server = world.serve()
        held = leasing.ManualLease(world.open(server.tcp)).take()
        room = held.store.open(A)
        held.heartbeat()
        with server.client() as client:
            older = Backup(client)
        room.set_decode_prefix_len(7)
        held.heartbeat()
        server = world.restart(server)
        with server.client() as client:
            older.restore(client)
        assert room.decode_prefix_len() == 7

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
