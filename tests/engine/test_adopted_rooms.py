"""Rooms with which a store goes on after another one has opened them: it brings them back, as that one would."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.engine.rank_group import RankGroup
from redis_kvpoll.protocol.keys import rooms
from tests.support.backup import Backup
from tests.support.internals import executor_of, tracked_rooms_of
from tests.support.servers import rooms_on_server

A, B = 1, 2
TWO_MINUTES = 120_000_000
"""In microseconds: longer than replay.lua believes that a room was lost where the feed does not tell."""


def by_a_handle(store):
    tracked_rooms_of(store).own("default", A, store.attach(A).generation)


def as_a_rank_of_a_group(store):
    group = RankGroup(executor_of(store))
    member = group.member(0, 1)
    member.join()
    group.adopt(store.entry(A), member.identity)


ADOPTED = {"handle": (by_a_handle, {}), "rank": (as_a_rank_of_a_group, {"rank": 0, "world_size": 1})}


@pytest.mark.parametrize("how", ADOPTED)
def test_old_room_comes_back_from_data_of_before_its_opening(world, how):
    adopt, ranks = ADOPTED[how]
    server = world.serve()
    opener, store = world.open(server.tcp, **ranks), world.open(server.tcp)
    witness = store.open(B)
    with server.client(decode_responses=True) as client:
        older = Backup(client)
        generation = opener.open(A, request="rid").generation - TWO_MINUTES
        client.hset(rooms("default", [A])[0], "generation", generation)
    adopt(store)
    server = world.restart(server)
    with server.client(decode_responses=True) as client:
        older.restore(client)
        assert witness.status() is KVPoll.Bootstrapping
        assert rooms_on_server(client) == {A: "Bootstrapping", B: "Bootstrapping"}
        assert client.hget(rooms("default", [A])[0], "generation") == str(generation)
