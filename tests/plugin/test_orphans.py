"""Rooms of prefill without a sender, with a stand-in for its manager."""

from __future__ import annotations

import pytest

from redis_kvpoll.integrations.sglang.orphans import Orphans
from tests.support.standin import manager

WAIT = 2
ROOM = 7


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


def test_room_that_decode_asks_for_again_waits_anew(registry, now):
    """SGLang adds the second message to what the first has left, so that alone does not show it."""
    sglang = manager(transfer_infos={ROOM: {}}, bootstrap_timeout=10, request_status=registry.statuses)
    orphans = Orphans(sglang, registry, "20")
    update = registry.scoped(sglang.update_status)
    for now[0] in (0, 29):
        sglang.transfer_infos[ROOM]["decode"] = f"where the pages go at {now[0]}"
        update(ROOM, WAIT)
    now[0] = 58
    assert (orphans.end_old(), ROOM in sglang.transfer_infos) == ([], True)
    now[0] = 59
    assert (orphans.end_old(), ROOM in sglang.transfer_infos) == ([ROOM], False)


def test_room_that_decode_asks_for_just_then_stays(registry, now):
    class Infos(dict):
        def get(self, room):
            registry.scoped(sglang.update_status)(ROOM, WAIT)
            return super().get(room)

    sglang = manager(transfer_infos=Infos({ROOM: {"decode": "where the pages go"}}), request_status=registry.statuses)
    registry.statuses[ROOM] = WAIT
    now[0] = 1000.0
    assert (Orphans(sglang, registry, None).end_old(), ROOM in sglang.transfer_infos) == ([], True)


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
