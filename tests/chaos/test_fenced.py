"""The checker of handles finds what is wrong in histories made by hand, and accepts what a fault explains."""

from __future__ import annotations

import math

import pytest

from chaos import fenced
from tests.support.histories import (
    BOOT,
    FAIL,
    MOVE,
    OK,
    READY,
    H,
    broken_rules,
    entry,
    fault,
    handle,
    opened,
    released,
    update,
    wrote,
)

OPENED, MOVED = opened(0, 1), wrote("ADVANCED", MOVE, 2, 3)
BACK, AGAIN, REASSIGNED = "a generation went back", "a generation came back", "a live room was reassigned"
NOT_SURVIVED = "a call failed in a fault that it should survive"
BAD = {
    "two requests share one": ([OPENED, opened(2, 3, worker=1, request="b")], "two requests share a generation"),
    "a status went back": ([OPENED, MOVED, entry(BOOT, 4, 5)], BACK),
    "another saw it go back": ([OPENED, MOVED, handle("status", None, [None, READY], 4, 5, worker=1)], BACK),
    "Failed was left": ([OPENED, handle("fail", FAIL, ["FAILED", FAIL], 2, 3), wrote("ADVANCED", OK, 4, 5)], BACK),
    "a room vanished": ([OPENED, entry(None, 2, 3)], BACK),
    "its handle finds nothing": ([OPENED, handle("status", None, None, 2, 3)], BACK),
    "a cleared one was opened": ([OPENED, released(2, 3), opened(4, 5, worker=1)], AGAIN),
    "a write was stale for no reason": ([OPENED, wrote("STALE", None, 2, 3, given=MOVE)], BACK),
    "a live room was reopened": ([OPENED, opened(2, 3, generation=H, worker=1, request="b")], REASSIGNED),
    "a stale write changed something": ([OPENED, released(2, 3), wrote("ADVANCED", MOVE, 4, 5, worker=1)], AGAIN),
    "a cleared generation is read": ([OPENED, released(2, 3), entry(BOOT, 4, 5)], AGAIN),
    "a stale handle became valid": (
        [OPENED, released(2, 3), wrote("STALE", None, 4, 5, given=OK), wrote("ADVANCED", OK, 6, 7, worker=1)],
        AGAIN,
    ),
}


@pytest.mark.parametrize("story", BAD)
def test_wrong_history_breaks_its_rule(story):
    calls, rule = BAD[story]
    assert broken_rules(*calls) == [rule]


FAILED_ROOM = handle("fail", FAIL, ["FAILED", FAIL], 2, 3)
GOOD = {
    "a whole life": [OPENED, MOVED, released(4, 5), wrote("STALE", None, 6, 7, given=OK), entry(None, 8, 9)],
    "one after the other": [OPENED, released(2, 3), opened(4, 5, generation=H, request="b"), entry(BOOT, 6, 7, H)],
    "a failed room reopened": [OPENED, FAILED_ROOM, opened(4, 5, generation=H, request="b", worker=1)],
    "a failure by a killed worker": [
        OPENED,
        handle("fail", FAIL, None, 2, math.inf, worker=1),
        opened(4, 5, generation=H, request="b", worker=2),
    ],
    "attached": [OPENED, opened(2, 3, worker=1), handle("attach", None, [None, None], 4, 5, worker=2)],
    "two that open it at once": [opened(0, 7), entry(None, 2, 3), opened(4, 5, worker=1)],
    "a clear in progress": [OPENED, released(1.5, 9), entry(None, 2, 3)],
}


@pytest.mark.parametrize("story", GOOD)
def test_right_history_breaks_no_rule(story):
    assert broken_rules(*GOOD[story]) == []


class TestDataLoss:
    LOST = fault(10, 11, loses="all", triggers_recovery=True)

    def test_lost_room_must_be_recovered_after_two_seconds(self):
        assert broken_rules(OPENED, MOVED, entry(None, 12, 12.5), entry(MOVE, 14, 15), faults=[self.LOST]) == []
        assert broken_rules(OPENED, MOVED, entry(None, 14, 15), faults=[self.LOST]) == [BACK]
        assert broken_rules(OPENED, MOVED, entry(BOOT, 14, 15), faults=[self.LOST]) == [BACK]

    def test_room_cleared_by_its_owner_stays_cleared(self):
        seen = entry(BOOT, 14, 15)
        assert broken_rules(OPENED, released(2, 3), seen, faults=[self.LOST]) == [AGAIN]
        assert broken_rules(OPENED, released(2, 3, worker=1), seen, faults=[self.LOST]) == []
        assert broken_rules(OPENED, released(2, 3, worker=1), seen, faults=[fault(10, 11)]) == [AGAIN]
        assert broken_rules(OPENED, released(2, 3), seen, faults=[fault(10, 11, loses="latest")]) == []

    @pytest.mark.parametrize(("at", "rule"), [(11.5, []), (13.5, [AGAIN])])
    def test_creator_may_replay_over_a_clear_until_recovered(self, at, rule):
        """The creator may find the new server only after another worker has cleared the room there."""
        cleared = released(at, at + 0.1, worker=1)
        faults = [fault(10, 11, loses="all")]
        assert broken_rules(OPENED, cleared, entry(BOOT, 14, 15), faults=faults) == rule

    @pytest.mark.parametrize(("asked_at", "rule"), [(13, []), (11.2, [AGAIN])])
    def test_creator_has_recovered_by_the_end_of_its_first_call(self, asked_at, rule):
        asked = update(BOOT, "CREATED", BOOT, asked_at, asked_at + 0.6)._replace(room=99)
        cleared = released(13.5, 13.6, worker=1)
        faults = [fault(10, 11, loses="all")]
        assert broken_rules(OPENED, asked, cleared, entry(BOOT, 14, 15), faults=faults) == rule

    def test_earlier_failure_explains_a_reopened_room(self):
        reopened = opened(16, 17, generation=H, request="b", worker=1)
        late = opened(14, 15, worker=1), update(BOOT, "CREATED", BOOT, 4, 5, worker=1)._replace(room=99)
        faults = [fault(1.5, 3.5, loses="latest", triggers_recovery=True)]
        assert broken_rules(OPENED, FAILED_ROOM, *late, reopened, faults=faults) == []
        assert broken_rules(OPENED, *late, reopened, faults=faults) == [REASSIGNED]

    @pytest.mark.parametrize(("loses", "rules"), [("all", []), ("", [AGAIN, BACK])])
    def test_creator_may_replay_over_an_unseen_failure(self, loses, rules):
        """It has seen neither the failure nor the request that opened the room after it."""
        failed = handle("fail", FAIL, ["FAILED", FAIL], 4, 5, worker=1)
        other = opened(6, 7, generation=H, request="b", worker=1), released(8, 9, generation=H, worker=1)
        faults = [fault(9.5, 11, loses=loses, triggers_recovery=True)]
        assert broken_rules(OPENED, MOVED, failed, *other, entry(MOVE, 14, 15), faults=faults) == rules

    @pytest.mark.parametrize(("at", "rule"), [(12, []), (16, [REASSIGNED])])
    def test_lost_room_may_be_reopened_until_recovered(self, at, rule):
        reopened = opened(at, at + 0.5, generation=H, request="b", worker=1)
        assert broken_rules(OPENED, reopened, entry(BOOT, 18, 19, H), faults=[self.LOST]) == rule


class TestOwners:
    def test_room_of_a_stopped_worker_may_be_reopened(self):
        reopened = opened(4, 5, generation=H, request="b", worker=1)
        assert broken_rules(OPENED, reopened, faults=[fault(1.5, 3, worker=0)]) == []
        assert broken_rules(OPENED, reopened, faults=[fault(1.5, 3, worker=1)]) == [REASSIGNED]

    @pytest.mark.parametrize(("status", "seen", "live"), [(BOOT, 9, True), (BOOT, 7.5, False), (FAIL, 9, False)])
    def test_live_room_of_a_dead_owner_is_found(self, status, seen, live):
        found = fenced.outlived_leases([entry(status, seen, seen + 0.1, owner="w")], {"w": 5.0}, lease=1.0)
        assert [one.rule for one in found] == ["a dead owner's room is still live"] * live

    @pytest.mark.parametrize("hit", [{}, {"w"}])
    def test_failed_room_of_a_live_owner_is_found(self, hit):
        lost, aborted = (entry(FAIL, 1, 2, owner="w", reason=why) for why in ("owner w lost", "by chance"))
        found = [one.rule for one in fenced.false_expiries([lost, aborted], hit)]
        assert found == ([] if hit else ["a live owner's room was failed"])

    @pytest.mark.parametrize(("worker", "rule"), [(0, []), (1, ["a live owner lost its lease"])])
    def test_lost_lease_needs_a_fault_of_its_worker(self, worker, rule):
        failed = update(BOOT, None, None, 4, 5, error="LeaseLostError: …")
        assert broken_rules(failed, faults=[fault(1, 3, worker=worker)]) == rule

    def test_wait_for_the_creator_explains_a_failed_call(self):
        failed = handle("write", OK, None, 0, 5)._replace(error="StoreUnavailableError: …")
        assert broken_rules(failed, faults=[fault(4, 4.5, outage=True, triggers_recovery=True)]) == []
        assert broken_rules(failed, faults=[fault(-9, -8, triggers_recovery=True)]) == []
        assert broken_rules(failed, faults=[fault(-12, -11, triggers_recovery=True)]) == [NOT_SURVIVED]
        assert broken_rules(failed, faults=[fault(4, 4.5, outage=True)]) == [NOT_SURVIVED]
