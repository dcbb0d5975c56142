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

    @pytest.mark.parametrize(("reopens", "rules"), [(True, []), (False, [AGAIN])])
    def test_creator_that_opened_again_knows_no_later_clear(self, reopens, rules):
        """It had seen an end before. Another creator's restored room let it in once more, until that one cleared it."""
        shared = [OPENED, opened(1, 1.5, worker=1), released(2, 3)]
        again = [opened(6, 7)] if reopens else []
        faults = [fault(4, 4.5, loses="all"), fault(10, 11, loses="all")]
        calls = *shared, *again, released(8, 9, worker=1), entry(BOOT, 14, 15)
        assert broken_rules(*calls, faults=faults) == rules

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

    @pytest.mark.parametrize(("loses", "rules"), [("all", []), ("", [AGAIN, BACK])])
    def test_next_generation_is_restored_over_one_that_came_back(self, loses, rules):
        """The creator of each has restored it, the first one without having seen the clear."""
        cleared, other = released(2, 3, worker=1), opened(4, 5, generation=H, request="b", worker=2)
        seen = wrote("ADVANCED", MOVE, 11, 12), entry(BOOT, 14, 15, H)
        faults = [fault(10, 11, loses=loses, triggers_recovery=True)]
        assert broken_rules(OPENED, cleared, other, *seen, faults=faults) == rules

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


class TestSurvivors:
    """A replica lacks the latest writes when it is promoted. It had all that ended before 9."""

    LAGGED = fault(10, 11, loses="latest", triggers_recovery=True, kept_until=9)

    def found(self, *calls):
        return broken_rules(*calls, faults=[self.LAGGED])

    @pytest.mark.parametrize(("at", "rule"), [(7, [AGAIN]), (9.5, [])])
    def test_clear_that_survived_is_final(self, at, rule):
        """No creator may create the room again, also if it has not seen the clear."""
        cleared = released(at, at + 0.2, worker=1)
        assert self.found(OPENED, cleared, entry(BOOT, 14, 15)) == rule
        assert self.found(OPENED, cleared, entry(BOOT, 11, 11.5)) == rule

    def test_restart_without_loss_brings_nothing_back(self):
        cleared = released(2, 3, worker=1)
        restarted = fault(10, 11, outage=True, triggers_recovery=True)
        assert broken_rules(OPENED, cleared, entry(BOOT, 14, 15), faults=[restarted]) == [AGAIN]
        higher = opened(4, 5, generation=H, request="b", worker=1), released(6, 7, generation=H, worker=1)
        assert broken_rules(OPENED, cleared, *higher, opened(14, 15), faults=[restarted]) == [AGAIN]

    def test_clear_after_the_promotion_is_final(self):
        """If its opening was not lost, nobody creates the room again, however soon after the fault it was cleared."""
        cleared, seen = released(11.5, 11.6, worker=1), entry(BOOT, 14, 15)
        assert self.found(OPENED, cleared, seen) == [AGAIN]
        assert self.found(opened(9.5, 9.6), cleared, seen) == []

    @pytest.mark.parametrize("at", [2, 9.5, 10.5])
    def test_holder_is_told_the_truth_in_the_end(self, at):
        """Whether the write survived, was lost, or was accepted by the former primary during the fault."""
        told = wrote("ADVANCED", MOVE, at, at + 0.2)
        assert self.found(OPENED, told, entry(MOVE, 14, 15)) == []
        assert self.found(OPENED, told, entry(BOOT, 14, 15)) == [BACK]
        assert self.found(OPENED, told, entry(None, 14, 15)) == [BACK]
        assert self.found(OPENED, told, wrote("STALE", None, 14, 15, given=OK)) == [BACK]

    def test_room_opened_during_the_fault_must_be_there(self):
        late = opened(10.2, 10.4)
        assert self.found(late, entry(None, 12, 12.5), entry(BOOT, 14, 15)) == []
        assert self.found(late, entry(None, 14, 15)) == [BACK]

    def test_what_survived_is_never_absent(self):
        """Not even before it is recovered."""
        told = wrote("ADVANCED", MOVE, 2, 3)
        assert self.found(OPENED, told, entry(BOOT, 11.2, 11.3)) == [BACK]
        assert self.found(OPENED, wrote("ADVANCED", MOVE, 9.5, 9.6), entry(BOOT, 11.2, 11.3)) == []

    def test_status_that_was_only_read_may_be_lost(self):
        """Its writer did not get the reply, so nobody was told it by a write."""
        read = handle("status", None, [None, MOVE], 9.5, 9.6, worker=1)
        unanswered = wrote("", None, 9.2, 9.4, given=MOVE, worker=2)._replace(answer=None, error="LeaseLostError: …")
        hit = fault(9, 9.1, worker=2)
        assert broken_rules(OPENED, unanswered, read, entry(BOOT, 14, 15), faults=[self.LAGGED, hit]) == []

    def test_clear_on_the_other_server_explains_an_absence(self):
        """The new primary had executed it, before the former one, awake for a moment, accepted a write."""
        cleared, told = released(10.1, 10.2, worker=1), wrote("ADVANCED", MOVE, 10.5, 10.6)
        assert self.found(OPENED, cleared, told, entry(None, 14, 15)) == []

    def test_room_without_a_living_creator_may_be_lost(self):
        told = wrote("ADVANCED", MOVE, 9.6, 9.7, worker=1)
        calls = opened(9.4, 9.5), told, entry(None, 14, 15)
        assert broken_rules(*calls, faults=[self.LAGGED, fault(9.8, 9.9, worker=0)]) == []
        assert self.found(*calls) == [BACK]


class TestWaits:
    def waited(self, error, began, ended):
        return handle("await", 1.0, None, began, ended)._replace(error=error)

    def test_wait_that_misses_a_live_room_is_found(self):
        missed = self.waited("RoomNotFoundError: …", 4, 5)
        assert broken_rules(OPENED, MOVED, missed) == [BACK]
        assert broken_rules(OPENED, MOVED, released(4.2, 4.3), missed) == []

    def test_wait_may_time_out(self):
        assert broken_rules(OPENED, MOVED, self.waited("WaitTimeoutError: …", 4, 5)) == []

    def test_wait_answers_the_status_of_its_room(self):
        seen = handle("await", 1.0, [None, BOOT], 4, 5)
        assert broken_rules(OPENED, MOVED, seen) == [BACK]


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
