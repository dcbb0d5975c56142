"""Rooms that all ranks have cleared, on another server that lacks the last changes: there they end, too."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, Outcome, Update
from redis_kvpoll.engine.recovery import tracked_rooms
from redis_kvpoll.protocol.keys import failed, owned
from tests.support import leasing
from tests.support.backup import Backup
from tests.support.internals import tracked_rooms_of
from tests.support.servers import rooms_on_server

A, B = 1, 2


class Ranks:
    """Ranks with leases, on a server that another replaces; it has what the first one had at ``back_up``."""

    def __init__(self, world, ranks, **options):
        self._world = world
        self.server = world.serve()
        self.leases = [
            leasing.ManualLease(
                world.open(self.server.tcp, rank=rank, world_size=ranks, **options), f"prefill-{rank}"
            ).take()
            for rank in range(ranks)
        ]
        self.stores = [lease.store for lease in self.leases]

    def open(self, room=A):
        return [store.open(room, request="rid") for store in self.stores]

    def back_up(self):
        with self.server.client() as client:
            self._backup = Backup(client)

    def replace_server(self):
        self.server = self._world.restart(self.server)
        with self.server.client() as client:
            self._backup.restore(client)

    def go_on(self):
        for store in self.stores:
            store.open(B, request="other")

    def rooms(self):
        with self.server.client(decode_responses=True) as client:
            assert not client.zscore(owned("default"), str(A))
            return rooms_on_server(client)


@pytest.mark.parametrize("options", [{}, {"feed_length": 0}], ids=["feed", "no feed"])
@pytest.mark.parametrize("last", [KVPoll.Transferring, KVPoll.Success])
def test_other_server_that_lacks_the_last_clears_ends_the_room(world, last, options):
    """Nobody clears it again, and the lease that lists it would keep it."""
    ranks = Ranks(world, 2, **options)
    held = ranks.open()
    for room in held:
        room.update(KVPoll.Transferring)
    ranks.back_up()
    for room in held:
        room.update(last)
    for room in held:
        assert room.clear() == Update(Outcome.CLEARED, last)
    ranks.replace_server()
    ranks.go_on()
    assert ranks.rooms() == {B: "Bootstrapping"}


def test_lost_clear_is_repeated_however_long_the_outage_was(world, monkeypatch):
    """A room that all have cleared is kept for a while, and an outage may outlast that."""
    monkeypatch.setattr(tracked_rooms, "RECENT", 0.0)
    ranks = Ranks(world, 2)
    held = ranks.open()
    ranks.back_up()
    for room in held:
        room.clear()
    ranks.replace_server()
    ranks.go_on()
    assert ranks.rooms() == {B: "Bootstrapping"}


def test_clear_after_the_last_one_keeps_it_no_longer(world):
    """As at the end of a block whose room was cleared in it."""
    ranks = Ranks(world, 1)
    (room,) = ranks.open()
    room.clear()
    (tracked,) = tracked_rooms_of(ranks.stores[0]).in_shard("default").values()
    until = tracked.until
    assert room.clear().outcome is Outcome.STALE
    tracked_rooms_of(ranks.stores[0]).fail("default", A, tracked.generation, "why", until)
    assert (tracked.until, tracked.is_clearing) == (until, False)


def test_failure_of_a_room_that_a_replay_ends_is_told(world):
    """Both were lost, and whoever follows the failures has not heard of it."""
    ranks = Ranks(world, 1)
    (room,) = ranks.open()
    room.update(KVPoll.Transferring)
    ranks.back_up()
    room.fail("why")
    room.clear()
    ranks.replace_server()
    ranks.go_on()
    assert ranks.rooms() == {B: "Bootstrapping"}
    with ranks.server.client(decode_responses=True) as client:
        told = client.xrange(failed("default"))
    assert [(failure[str(A)], failure["reason"]) for _, failure in told] == [(str(room.generation), "why")]


def test_room_whose_opening_was_lost_too_awaits_nobody(world):
    """All have cleared it, so nobody brings it back."""
    ranks = Ranks(world, 1)
    ranks.stores[0].open(B, request="other")
    ranks.back_up()
    (room,) = ranks.open()
    room.clear()
    ranks.replace_server()
    ranks.go_on()
    assert ranks.rooms() == {B: "Bootstrapping"}
    assert not tracked_rooms_of(ranks.stores[0]).awaiting_shards
