"""Signal handlers and finalizers that use SGLang's maps while their own thread changes them, at any place.

They must not wait for the lock that their thread holds, and must not change a room in the middle of another change.
"""

from __future__ import annotations

import pytest

from redis_kvpoll.agent import messages
from redis_kvpoll.agent.life import Life
from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from tests.support.interrupts import every_place, interrupted_at

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM, OTHER, HANDLED = 1, 2, 3
WHERE = ("/integrations/sglang/", "/agent/", "/threading.py")


def write(registry):
    registry.update_status(ROOM, MOVE)
    registry.update_status(OTHER, BOOT)


def clear(registry):
    registry.statuses.pop(ROOM, None)


def record(registry):
    registry.reasons[ROOM] = "why"
    registry.lengths[ROOM] = 7


def pop(registry):
    record(registry)
    registry.lengths.pop(ROOM, None)
    registry.reasons.pop(ROOM, None)


def wait(registry):
    """For another rank's reason, which does not come."""
    registry.waiting.longest = 0.001
    registry.statuses[OTHER] = FAIL
    registry.statuses.pop(OTHER, None)
    registry.reasons.pop(OTHER, None)


def reconnect(registry):
    """All is told once more, and the channel is full for a while."""
    registry.connected()
    registry.is_full = True
    write(registry)
    registry.is_full = False
    registry.has_room()


def withhold(registry):
    registry.claim_during(
        OTHER, "rid", registry.withhold_during, ROOM, registry.statuses.update, {OTHER: BOOT, ROOM: MOVE}
    )


def fail(registry):
    registry.fail_from_table(ROOM, registry.lives.number(ROOM) or 0, "why", publish=True)
    registry.deliver_reason(ROOM, "why")
    registry.last_status(ROOM)
    registry.unclaimed.old(0)
    registry.end_unclaimed(OTHER)


def abandon(registry):
    """A failed room's sender is dropped, and the next one comes."""
    registry.statuses[ROOM] = FAIL
    registry.unclaimed.dropped.append(registry.lives.get(ROOM) or Life(ROOM, 0))
    registry.abandon()
    registry.claim_during(ROOM, "rid", lambda: None)


class Told(RoomRegistry):
    """A registry that tells its changes by a sender, and what it has told on the present connection."""

    def __init__(self):
        super().__init__()
        self.sender.channel = self
        self.is_full = False
        self.told = []

    def send(self, kind, payload):
        if not self.is_full:
            self.told.append(messages.decode_change(payload))
        return not self.is_full

    def connected(self):
        def connect():
            self.told.clear()
            self.sender.connected()
            self.sender.send_changes()

        self.changes.make(connect, lambda: None)

    def has_room(self):
        self.changes.make(self.sender.send_changes, lambda: None)


def begun():
    """A registry with one room, which scopes SGLang's update_status, and tells its changes."""
    registry = Told()
    registry.connected()
    registry.scoped(registry.statuses.__setitem__)
    registry.update_status(ROOM, BOOT)
    return registry


def told_by(registry):
    """The lives that were told of each room, in their order, and the last status of each that is not over."""
    rooms = {}
    for room, life in registry.told:
        lives = rooms.setdefault(room, [])
        if lives and lives[-1].number == life.number:
            lives[-1].add(life)
        else:
            lives.append(life)
    return rooms


def is_a_length(life):
    """Whether a life's changes are a prefix length alone, which waits for the room's next change."""
    return life == RoomLife(life.number, length=life.length)


@pytest.mark.parametrize("call", [write, clear, record, pop, wait, reconnect, withhold, fail, abandon])
def test_handler_may_use_maps_at_any_place(call):
    def interrupt(number):
        registry = begun()

        def handler():
            registry.update_status(HANDLED, BOOT)
            registry.update_status(HANDLED, MOVE)
            registry.reasons[HANDLED] = "handled"
            registry.lengths[HANDLED] = 9
            assert registry.statuses.pop(ROOM, None) in (BOOT, MOVE, FAIL, None)
            registry.has_room()
            write(registry)

        was_interrupted = interrupted_at(number, lambda: call(registry), handler, WHERE)
        if was_interrupted:
            assert (registry.statuses.get(HANDLED), registry.reasons.get(HANDLED)) == (MOVE, "handled")
            assert registry.lengths.get(HANDLED) == 9
        rooms = {ROOM, OTHER, HANDLED}
        assert {room for room in rooms if registry.lives.number(room)} == registry.statuses.keys()
        # What is told says the same: each life's end, and the last status of one that has none.
        told = told_by(registry)
        assert all(life.is_over for lives in told.values() for life in lives[:-1])
        last = {room: lives[-1].status for room, lives in told.items() if not lives[-1].is_over}
        assert last == registry.statuses
        registry.told.clear()
        registry.has_room()
        assert all(is_a_length(life) for _, life in registry.told)
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


def test_handler_may_empty_a_map_in_the_middle_of_a_change():
    """The room is gone once the change is over: that must not be waited for."""
    registry, removals, clear = begun(), iter(range(5)), RoomRegistry.clear
    registry.clear = lambda *words: (next(removals), clear(registry, *words))[1]
    registry.change(registry.statuses.clear)
    assert (dict(registry.statuses), registry.told[-1][1].is_over) == ({}, True)
