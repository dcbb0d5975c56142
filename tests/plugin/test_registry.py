"""The registry alone, without SGLang or a server: what SGLang's threads read, and what is then to be published."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from redis_kvpoll.agent import tombstones
from redis_kvpoll.agent.client import sender
from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.integrations.sglang import registry as registry_module
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from tests.support import pace
from tests.support.told import Told, ToldRegistry

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 7


@pytest.fixture
def registry():
    return ToldRegistry()


@pytest.fixture
def other():
    """Run calls in a second thread, one by one."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda step, *arguments: pool.submit(step, *arguments).result(120)


class TestTold:
    def test_lives_of_a_room_are_told_in_order(self, registry):
        for last in (OK, FAIL):
            registry.statuses[ROOM] = BOOT
            registry.statuses[ROOM] = last
            registry.statuses.pop(ROOM)
        assert registry.told.take_all(ROOM) == [(True, OK, True), (True, FAIL, True)]

    def test_withheld_failure_is_told_after_the_last_call(self, registry):
        """Two threads may withhold a room at once; what follows the failure comes behind it."""
        registry.statuses[ROOM] = BOOT
        registry.told.take(ROOM)

        def first():
            registry.withhold_during(ROOM, second)
            assert (registry.told.take(ROOM), len(registry.sender)) == (None, 2)

        def second():
            registry.statuses[ROOM] = FAIL
            registry.statuses.pop(ROOM)
            registry.statuses[ROOM] = BOOT

        registry.withhold_during(ROOM, first)
        assert [life for _, life in registry.told.changes] == [
            RoomLife(1, status=FAIL, is_over=True),
            RoomLife(2, is_new=True, status=BOOT),
        ]

    def test_room_that_does_not_fail_is_told_at_once(self, registry):
        """Most transfers end so, and need not wait for SGLang's message."""

        def succeed():
            registry.statuses[ROOM] = OK
            assert registry.told.take(ROOM) == RoomLife(1, status=OK)
            registry.statuses.pop(ROOM)
            assert registry.told.take(ROOM) == RoomLife(1, is_over=True)

        registry.statuses[ROOM] = BOOT
        registry.told.take(ROOM)
        registry.withhold_during(ROOM, succeed)
        assert (registry.told.rooms(), registry.sender.withheld) == ([], [])

    def test_write_without_change_is_not_told(self, registry):
        registry.statuses[ROOM] = BOOT
        assert registry.told.rooms() == [ROOM]
        registry.statuses[ROOM] = BOOT
        assert registry.told.rooms() == [ROOM]

    def test_each_change_but_a_length_is_told_at_once(self, registry):
        """A length goes with the status of the same message, so that the two are one for the agent."""
        for room in range(3):
            registry.statuses[room] = BOOT
        registry.lengths[0] = 17
        assert registry.told.rooms() == [0, 1, 2]
        registry.statuses[0] = WAIT
        registry.statuses[0] = MOVE
        assert [life for _, life in registry.told.changes[3:]] == [
            RoomLife(1, status=WAIT, length=17),
            RoomLife(1, status=MOVE),
        ]

    def test_later_length_goes_with_the_next_change(self, registry):
        registry.statuses[ROOM] = BOOT
        registry.told.take(ROOM)
        for length, status in ((17, WAIT), (23, MOVE)):
            registry.lengths[ROOM] = length
            registry.statuses[ROOM] = status
            assert registry.told.take(ROOM) == RoomLife(1, status=status, length=length)

    def test_failure_has_its_reason_and_opening_its_length(self, registry):
        registry.lengths[ROOM] = 17
        registry.statuses[ROOM] = BOOT
        assert registry.told.take(ROOM) == RoomLife(1, is_new=True, status=BOOT, length=17)
        registry.reasons[ROOM] = "no route"
        registry.statuses[ROOM] = FAIL
        assert registry.told.take(ROOM) == RoomLife(1, status=FAIL, reason="no route")

    def test_update_by_an_operator_is_published(self, registry):
        statuses = registry.statuses
        statuses |= {ROOM: BOOT}
        assert registry.told.take(ROOM) == RoomLife(1, is_new=True, status=BOOT)
        assert (registry.statuses.pop(ROOM), dict(registry.statuses)) == (BOOT, {})

    def test_reason_recorded_after_failure_is_published(self, registry):
        registry.statuses.update({ROOM: BOOT})
        registry.statuses[ROOM] = FAIL
        registry.told.take(ROOM)
        registry.reasons[ROOM] = "no route"
        assert registry.told.take(ROOM) == RoomLife(1, reason="no route")

    def test_lives_over_the_limit_are_dropped_if_they_are_over(self, registry, monkeypatch):
        monkeypatch.setattr(sender, "MAX_ENDED_LIVES", 10)
        registry.sender.disconnected()
        registry.statuses[1000] = BOOT
        for room in range(30):
            registry.statuses[room] = BOOT
            registry.statuses.pop(room)
        assert (len(registry.sender), registry.sender.dropped) == (11, 20)
        told = Told(registry.sender)
        assert told.take_all(1000) == [(True, BOOT, False)]
        assert told.take_all(29) == [(True, BOOT, True)]


class TestReasons:
    def test_reason_recorded_twice_is_the_first(self, registry):
        registry.reasons[ROOM] = "first"
        registry.reasons[ROOM] = "second"
        assert registry.reasons.setdefault(ROOM, "third") == "first"
        assert registry.reasons.pop(ROOM, None) == "first"
        assert registry.reasons.pop(ROOM, None) is None

    def test_generic_reason_is_replaced_by_a_specific_one(self, registry):
        registry.reasons[ROOM] = registry_module.GENERIC_REASON
        registry.reasons[ROOM] = "the rebootstrap failed"
        assert registry.reasons[ROOM] == "the rebootstrap failed"

    def test_reason_after_clear_stays_until_reopening(self, registry):
        registry.statuses[ROOM] = BOOT
        registry.reasons[ROOM] = "first"
        registry.statuses.pop(ROOM)
        assert registry.reasons.get(ROOM) == "first"
        registry.statuses[ROOM] = BOOT
        assert ROOM not in registry.reasons

    def test_records_of_closed_rooms_expire(self):
        now = [0.0]
        registry = RoomRegistry(clock=lambda: now[0])
        registry.reasons[1] = "never opened"
        registry.lengths[2] = 17
        registry.statuses[3] = BOOT
        registry.reasons[3] = "cleared"
        registry.statuses.pop(3)
        registry.statuses[4] = BOOT
        registry.reasons[4] = "still there"
        now[0] = tombstones.TOMBSTONE_SECONDS + 1
        registry.statuses[5] = BOOT
        registry.statuses.pop(5)
        assert (dict(registry.reasons), dict(registry.lengths)) == ({4: "still there"}, {})
        assert registry.last_status(3) is None

    def test_reason_of_another_rank_is_waited_for(self, registry, other):
        registry.waiting.longest = pace.seconds(5)
        registry.statuses[ROOM] = BOOT
        registry.statuses.pop(ROOM)

        def deliver():
            while ROOM not in registry.waiting.rooms:
                pass
            registry.deliver_reason(ROOM, "rank 1 says no")

        with ThreadPoolExecutor(1) as pool:
            delivered = pool.submit(deliver)
            assert other(registry.reasons.pop, ROOM, None) == "rank 1 says no"
            delivered.result(pace.seconds(5))
        assert not registry.waiting.rooms

    def test_waits_of_many_rooms_share_one_budget(self, registry):
        registry.waiting.longest = 0.25
        for room in range(40):
            registry.statuses[room] = BOOT
            registry.statuses.pop(room)
        began = time.monotonic()
        with pace.Stopwatch() as took:
            assert all(registry.reasons.pop(room, None) is None for room in range(40))
        assert time.monotonic() - began >= 0.25
        assert took.seconds < 2.0

    def test_wait_budget_after_a_pause_is_restored(self):
        now = [0.0]
        registry = RoomRegistry(clock=lambda: now[0])
        registry.waiting.longest = 0.25
        waited = []
        registry.waiting._recorded.wait_for = lambda _, seconds: (
            waited.append(round(seconds, 3)),
            now.append(now.pop() + seconds),
        )
        for pause in (0.0, 0.0, 1.0, 0.0, 100.0):
            now.append(now.pop() + pause)
            registry.statuses[ROOM] = BOOT
            registry.statuses.pop(ROOM)
            registry.reasons.pop(ROOM, None)
        assert waited == [0.25, 0.025, 0.102, 0.01, 0.25]

    def test_reason_that_no_rank_can_have_is_not_waited_for(self, registry):
        registry.waiting.longest = 60.0
        assert registry.reasons.pop(ROOM, None) is None  # it was never opened
        registry.statuses[ROOM] = BOOT
        registry.reasons[ROOM] = "own"
        registry.statuses.pop(ROOM)
        assert registry.reasons.pop(ROOM, None) == "own"


class TestFailFromTable:
    def test_failure_in_own_table_fails_without_publishing(self, registry):
        registry.statuses[ROOM] = BOOT
        registry.told.take(ROOM)
        registry.fail_from_table(ROOM, registry.lives.number(ROOM), "an operator", False)
        assert (registry.statuses[ROOM], registry.reasons[ROOM]) == (FAIL, "an operator")
        assert registry.told.take_all(ROOM) == []

    def test_failure_in_other_table_is_published(self, registry):
        registry.statuses[ROOM] = BOOT
        registry.told.take(ROOM)
        registry.fail_from_table(ROOM, registry.lives.number(ROOM), "prefill lost", True)
        assert registry.told.take(ROOM) == RoomLife(1, status=FAIL, reason="prefill lost")

    def test_success_survives_failure_in_either_table(self, registry):
        registry.statuses[ROOM] = BOOT
        registry.statuses[ROOM] = OK
        for publish in (True, False):
            registry.fail_from_table(ROOM, 1, "lost", publish)
            assert registry.statuses[ROOM] == OK

    def test_failure_of_an_earlier_life_is_ignored(self, registry):
        registry.statuses[ROOM] = BOOT
        number = registry.lives.number(ROOM)
        registry.statuses.pop(ROOM)
        registry.statuses[ROOM] = BOOT
        registry.fail_from_table(ROOM, number, "late", False)
        assert registry.statuses[ROOM] == BOOT
        assert ROOM not in registry.reasons


class TestDetached:
    def test_detached_registry_keeps_and_awaits_nothing(self, registry):
        registry.waiting.longest = 60.0
        registry.statuses[1] = BOOT
        registry.detach()
        registry.statuses[1] = MOVE
        for room in range(100):
            registry.statuses[room] = BOOT
            registry.lengths[room] = 3
            registry.reasons[room] = "no route"
            registry.statuses[room] = FAIL
            registry.statuses.pop(room)
        assert registry.reasons.pop(7, None) == "no route"
        assert registry.reasons.pop(7, None) is None
        assert (len(registry.sender), Told(registry.sender).rooms()) == (0, [])
