"""Rooms of prefill without a sender, with a stand-in for its manager."""

from __future__ import annotations

import pytest

from redis_kvpoll.integrations.sglang.orphans import Orphans
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from tests.support.standin import manager

WAIT = 2
ROOM = 7


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def registry(now):
    registry = RoomRegistry(lambda: None, clock=lambda: now[0])
    registry.awaits_claims = True
    return registry


@pytest.mark.parametrize(("waiting", "age"), [(None, 310), ("20", 30), ("a minute", 310)])
def test_room_ends_after_both_timeouts(registry, now, waiting, age):
    sglang = manager(transfer_infos={ROOM: {"decode": "where the pages go"}}, bootstrap_timeout=10)
    orphans = Orphans(sglang, registry, waiting)
    registry.statuses[ROOM] = WAIT
    now[0] = age - 1
    assert orphans.end_old() == []
    now[0] = age
    assert orphans.end_old() == [ROOM]
    assert (sglang.transfer_infos, dict(registry.statuses)) == ({}, {})


def test_room_that_may_be_written_stays(registry, now):
    sglang = manager(transfer_infos={}, _staging_outstanding={1: 1, 2: 0}, _deferred_ack_poisoned_rooms={3})
    for room in (1, 2, 3, 4):
        registry.statuses[room] = WAIT
    now[0] = 1000.0
    assert Orphans(sglang, registry, None).end_old() == [2, 4]


def test_destinations_of_a_request_that_comes_now_stay(registry, now):
    class Infos(dict):
        def get(self, room):
            found = super().get(room)
            self[room] = {"decode": "another place"}
            return found

    sglang = manager(transfer_infos=Infos({ROOM: {"decode": "where the pages went"}}))
    registry.statuses[ROOM] = WAIT
    now[0] = 1000.0
    assert Orphans(sglang, registry, None).end_old() == [ROOM]
    assert ROOM in sglang.transfer_infos
