"""Rooms that a message opens before they have a sender: prefill's registry alone, without SGLang."""

from __future__ import annotations

import pytest

from redis_kvpoll.integrations.sglang.outbox import RoomLife
from redis_kvpoll.integrations.sglang.registry import RoomRegistry

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 7


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def registry(now):
    registry = RoomRegistry(lambda: None, clock=lambda: now[0])
    registry.awaits_claims = True
    return registry


class TestClaims:
    def test_room_without_sender_is_not_published(self, registry):
        registry.lengths[ROOM] = 17
        registry.statuses[ROOM] = WAIT
        registry.reasons[ROOM] = "no route"
        registry.statuses[ROOM] = FAIL
        assert (registry.take_changed(), registry.take(ROOM)) == ([], None)
        registry.statuses.pop(ROOM)
        assert (registry.take_changed(), registry.take(ROOM)) == ([], None)

    def test_sender_publishes_what_was_there_before(self, registry):
        registry.lengths[ROOM] = 17
        registry.statuses[ROOM] = WAIT
        with registry.claiming(ROOM, "rid"):
            registry.statuses[ROOM] = WAIT
        assert registry.take(ROOM) == RoomLife(1, is_new=True, request="rid", status=WAIT, length=17)

    def test_sender_of_a_failed_room_publishes_the_failure(self, registry):
        registry.statuses[ROOM] = WAIT
        registry.reasons[ROOM] = "aborted"
        registry.statuses[ROOM] = FAIL
        with registry.claiming(ROOM, ""):
            pass
        assert registry.take(ROOM) == RoomLife(1, is_new=True, status=FAIL, reason="aborted")

    def test_room_opened_by_its_sender_has_the_request(self, registry):
        with registry.claiming(ROOM, "rid"):
            registry.statuses[ROOM] = BOOT
            registry.statuses[ROOM + 1] = BOOT
        assert registry.take(ROOM) == RoomLife(1, is_new=True, request="rid", status=BOOT)
        assert registry.take(ROOM + 1) is None

    def test_second_sender_leaves_the_request(self, registry):
        for request in ("first", "second"):
            with registry.claiming(ROOM, request):
                registry.statuses[ROOM] = BOOT
        assert registry.take(ROOM).request == "first"
