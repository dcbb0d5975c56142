"""Signal handlers and finalizers that use SGLang's maps while their own thread changes them, at any place.

They must not wait for the lock that their thread holds, and must not change a room in the middle of another change.
"""

from __future__ import annotations

import pytest

from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from tests.support.interrupts import every_place, interrupted_at

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM, OTHER, HANDLED = 1, 2, 3
WHERE = ("/integrations/sglang/", "/threading.py")


def write(registry):
    registry.update_status(ROOM, MOVE)
    registry.update_status(OTHER, BOOT)


def clear(registry):
    registry.statuses.pop(ROOM, None)


def record(registry):
    registry.reasons[ROOM] = "why"
    registry.lengths[ROOM] = 7


def pop(registry):
    registry.lengths.pop(ROOM, None)
    registry.reasons.pop(OTHER, None)


def wait(registry):
    """For another rank's reason, which does not come."""
    registry.reason_wait_seconds = 0.001
    registry.statuses[OTHER] = FAIL
    registry.statuses.pop(OTHER, None)
    registry.reasons.pop(OTHER, None)


def publish(registry):
    for room in registry.take_changed():
        life = registry.take(room)
        if life is not None:
            registry.put_back(room, life)


def withhold(registry):
    with registry.withholding(ROOM), registry.claiming(OTHER, "rid"):
        registry.statuses[OTHER] = BOOT


def fail(registry):
    registry.fail_from_table(ROOM, registry.current_life(ROOM) or 0, "why", publish=True)
    registry.deliver_reason(ROOM, "why")
    registry.last_status(ROOM)
    registry.unclaimed(0)
    registry.end_unclaimed(OTHER)


def begun():
    """A registry with one room, which scopes SGLang's update_status."""
    registry = RoomRegistry(lambda: None)
    registry.scoped(registry.statuses.__setitem__)
    registry.update_status(ROOM, BOOT)
    return registry


@pytest.mark.parametrize("call", [write, clear, record, pop, wait, publish, withhold, fail])
def test_handler_may_use_maps_at_any_place(call):
    def interrupt(number):
        registry = begun()

        def handler():
            registry.update_status(HANDLED, BOOT)
            registry.update_status(HANDLED, MOVE)
            registry.reasons[HANDLED] = "handled"
            registry.lengths[HANDLED] = 9
            assert registry.statuses.pop(ROOM, None) in (BOOT, MOVE, FAIL, None)
            publish(registry)
            write(registry)

        was_interrupted = interrupted_at(number, lambda: call(registry), handler, WHERE)
        if was_interrupted:
            assert (registry.statuses.get(HANDLED), registry.reasons.get(HANDLED)) == (MOVE, "handled")
            assert registry.lengths.get(HANDLED) == 9
        rooms = {ROOM, OTHER, HANDLED}
        assert {room for room in rooms if registry.current_life(room)} == registry.statuses.keys()
        # What is published tells the same: each life's end, and the last status of one that has none.
        published = {room: list(iter(lambda room=room: registry.take(room), None)) for room in rooms}
        assert all(life.is_over for lives in published.values() for life in lives[:-1])
        last = {room: lives[-1] for room, lives in published.items() if lives}
        assert {room: life.status for room, life in last.items() if not life.is_over} == registry.statuses
        return was_interrupted

    every_place(interrupt)


def test_change_of_a_handler_keeps_its_scope():
    """It is put off, but is about the life that the room had when the handler ran."""

    def interrupt(number):
        registry = begun()
        scopes = []

        def read_then_write(room, status):
            scopes.append(registry.scopes.current)
            registry.statuses[room] = status

        registry.scoped(read_then_write)
        was_interrupted = interrupted_at(
            number, lambda: registry.statuses.pop(ROOM), lambda: registry.update_status(ROOM, FAIL), WHERE
        )
        assert ROOM not in registry.statuses, "the room was cleared: its late Failed opens nothing"
        assert registry.scopes.current is None
        return was_interrupted

    every_place(interrupt)
