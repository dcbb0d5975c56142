"""The checker of chaos runs finds what is wrong in histories made by hand, and accepts what a fault explains."""

from __future__ import annotations

import math

import pytest

from chaos import checker
from chaos.history import History
from tests.support.histories import BOOT, DEADLINE, FAIL, MOVE, OK, READY, broken_rules, call, fault, update

CREATED = update(BOOT, "CREATED", BOOT, 0, 1)
ADVANCED = update(MOVE, "ADVANCED", MOVE, 2, 3)
CLEARED = call("clear", None, MOVE, 4, 5)
BACK, AGAIN, INVALID = "a room went back", "a room came back", "an invalid answer"
UNDOCUMENTED, LATE = "an undocumented exception", "a caller waited too long"
NOT_SURVIVED, EARLY = "a call failed in a fault that it should survive", "a call gave up before its deadline"
UNKNOWN, REFUSED = "an unexplained unknown outcome", "an unexplained refusal"

BAD = {
    "a status went back": ([CREATED, ADVANCED, call("get", None, BOOT, 4, 5)], BACK),
    "another worker saw it go back": ([CREATED, ADVANCED, call("poll", None, READY, 4, 5, worker=1)], BACK),
    "a mirror shows an old status": ([CREATED, ADVANCED, call("mirror", None, BOOT, 4, 5, worker=1)], BACK),
    "a wait returns an old status": ([CREATED, ADVANCED, call("wait", 0.1, READY, 4, 5)], BACK),
    "Failed was left": (
        [CREATED, call("abort", None, ["FAILED", FAIL], 2, 3), update(OK, "ADVANCED", OK, 4, 5)],
        BACK,
    ),
    "a room vanished": ([CREATED, call("get", None, None, 2, 3)], BACK),
    "a room was created twice": ([CREATED, update(READY, "CREATED", READY, 2, 3)], BACK),
    "an update missed a present room": ([CREATED, update(MOVE, "SKIPPED", None, 2, 3)], BACK),
    "a clear returned an old status": ([ADVANCED, call("clear", None, BOOT, 4, 5)], BACK),
    "a clear missed a present room": ([ADVANCED, call("clear", None, None, 4, 5)], BACK),
    "two clears removed one room": ([ADVANCED, CLEARED, call("clear", None, MOVE, 6, 7)], AGAIN),
    "a late status brought a room back": ([ADVANCED, CLEARED, update(OK, "ADVANCED", OK, 6, 7)], AGAIN),
    "a cleared room is read": ([ADVANCED, CLEARED, call("get", None, MOVE, 6, 7, worker=3)], AGAIN),
    "a mirror shows a cleared room": ([ADVANCED, CLEARED, call("mirror", None, MOVE, 6, 7)], AGAIN),
    "an abort brought a room back": ([CLEARED, call("abort", None, ["UNCHANGED", FAIL], 6, 7)], AGAIN),
    "Failed created a room": ([update(FAIL, "CREATED", FAIL, 0, 1)], INVALID),
    "an abort created a room": ([call("abort", None, ["CREATED", FAIL], 0, 1)], INVALID),
    "Success created a room": ([update(OK, "CREATED", OK, 0, 1)], INVALID),
    "a write was dropped": ([update(OK, "UNCHANGED", BOOT, 0, 1)], INVALID),
    "an advance to another status": ([update(OK, "ADVANCED", MOVE, 0, 1)], INVALID),
    "a creating status was skipped": ([update(BOOT, "SKIPPED", None, 0, 1)], INVALID),
    "a traceback": ([update(BOOT, None, None, 0, 1, error="KeyError: …")], UNDOCUMENTED),
    "an error of another call": ([update(BOOT, None, None, 0, 1, error="RoomNotFoundError: …")], UNDOCUMENTED),
    "an update whose outcome is unknown": ([update(BOOT, None, None, 0, 1, error="OutcomeUnknownError: …")], UNKNOWN),
    "a clear whose outcome is unknown": ([call("clear", None, None, 0, 1, error="OutcomeUnknownError: …")], UNKNOWN),
    "a refusal": ([update(BOOT, None, None, 0, 1, error="ServerRefusedError: NOPERM")], REFUSED),
    "a call gave up early": ([update(BOOT, None, None, 0, 1, error="StoreUnavailableError: …")], EARLY),
    "a call failed": ([update(BOOT, None, None, 0, 5, error="StoreUnavailableError: …")], NOT_SURVIVED),
    "a call hung": ([update(BOOT, "CREATED", BOOT, 0, 8)], LATE),
    "a wait hung": ([call("wait", 1.0, BOOT, 0, 9)], LATE),
}


@pytest.mark.parametrize("story", BAD)
def test_wrong_history_breaks_its_rule(story):
    calls, rule = BAD[story]
    assert broken_rules(*calls) == [rule]


GOOD = {
    "a whole life": [CREATED, ADVANCED, CLEARED, call("get", None, None, 6, 7)],
    "another room": [CREATED, ADVANCED, call("get", None, BOOT, 4, 5, room=8)],
    "overlapping reads": [CREATED, ADVANCED, call("get", None, BOOT, 2.5, 5)],
    "a clear between": [CREATED, ADVANCED, CLEARED, update(BOOT, "CREATED", BOOT, 6, 7)],
    "a clear in progress": [ADVANCED, call("clear", None, MOVE, 2, 9, worker=1), call("get", None, None, 4, 5)],
    "a clear by a killed worker": [ADVANCED, call("clear", None, None, 0, math.inf), call("get", None, None, 4, 5)],
    "a room of a killed worker": [CLEARED, update(BOOT, None, None, 0, math.inf), call("get", None, BOOT, 6, 7)],
    "a wait within its timeout": [call("wait", 3.0, BOOT, 0, 9)],
    "a wait that timed out": [call("wait", 0.1, None, 0, 1, error="WaitTimeoutError: …")],
}


@pytest.mark.parametrize("story", GOOD)
def test_right_history_breaks_no_rule(story):
    assert broken_rules(*GOOD[story]) == []


class TestFaults:
    @pytest.mark.parametrize(("loses", "rule"), [("all", []), ("latest", []), ("", [BACK])])
    def test_data_loss_explains_a_missing_room(self, loses, rule):
        lost = [CREATED, ADVANCED, call("get", None, None, 6, 7), update(BOOT, "CREATED", BOOT, 8, 9)]
        assert broken_rules(*lost, faults=[fault(3.5, 5, loses=loses)]) == rule

    @pytest.mark.parametrize(("loses", "rule"), [("all", [AGAIN]), ("latest", []), ("", [AGAIN])])
    def test_only_a_rollback_explains_a_room_that_came_back(self, loses, rule):
        restored = [ADVANCED, CLEARED, call("get", None, MOVE, 8, 9)]
        assert broken_rules(*restored, faults=[fault(5.5, 7, loses=loses)]) == rule

    @pytest.mark.parametrize(("kept", "rule"), [(5.2, [AGAIN]), (4.5, [])])
    def test_rollback_explains_nothing_that_survived_it(self, kept, rule):
        restored = [ADVANCED, CLEARED, call("get", None, MOVE, 8, 9)]
        assert broken_rules(*restored, faults=[fault(5.5, 7, loses="latest", kept_until=kept)]) == rule

    @pytest.mark.parametrize(("kept", "rule"), [(3.2, [BACK]), (2.5, [])])
    def test_status_that_survived_a_rollback_stays(self, kept, rule):
        lost = [CREATED, ADVANCED, call("get", None, READY, 6, 7)]
        assert broken_rules(*lost, faults=[fault(3.5, 5, loses="latest", kept_until=kept)]) == rule

    def test_data_loss_explains_nothing_after_it(self):
        later = [update(MOVE, "ADVANCED", MOVE, 6, 7), call("get", None, BOOT, 8, 9)]
        assert broken_rules(*later, faults=[fault(3.5, 5, loses="all")]) == [BACK]

    def test_delayed_execution_explains_a_room_that_came_back(self):
        """The update met a fault, so a copy of it may have been on its way when the room was cleared."""
        late = [CREATED, call("clear", None, BOOT, 3, 4), call("get", None, BOOT, 5, 6)]
        assert broken_rules(*late) == [AGAIN]
        assert broken_rules(*late, faults=[fault(0.5, 2)]) == []
        assert broken_rules(*late, faults=[fault(1.5, 2)]) == [AGAIN]

    def test_clear_of_unknown_outcome_explains_a_missing_room(self):
        lost = [ADVANCED, call("clear", None, None, 4, 5, error="OutcomeUnknownError: …")]
        assert broken_rules(*lost, call("get", None, None, 8, 9), faults=[fault(4.5, 6)]) == []

    @pytest.mark.parametrize(("began", "rules"), [(0, [UNKNOWN]), (3, []), (6, [UNKNOWN])])
    def test_fault_shortly_before_explains_an_unknown_outcome(self, began, rules):
        """A connection may turn out to be to a former primary when the failover is over."""
        lost = call("clear", None, None, 4, 5, error="OutcomeUnknownError: …")
        assert broken_rules(lost, faults=[fault(began, began + 0.5)]) == rules

    @pytest.mark.parametrize(("ended", "rule"), [(4, []), (2, [NOT_SURVIVED])])
    def test_long_outage_explains_a_failed_call(self, ended, rule):
        failed = update(BOOT, None, None, 0, 5, error="StoreUnavailableError: …")
        assert broken_rules(failed, faults=[fault(1, ended, outage=True)]) == rule
        assert broken_rules(failed, faults=[fault(1, ended)]) == [NOT_SURVIVED]

    def test_stop_of_the_worker_explains_a_long_call(self):
        hung = update(BOOT, "CREATED", BOOT, 0, 9)
        assert broken_rules(hung, faults=[fault(1, 8, worker=0)]) == []
        assert broken_rules(hung, faults=[fault(1, 8, worker=1)]) == [LATE]

    def test_arranged_refusal_is_accepted(self):
        refused = update(BOOT, None, None, 0, 1, error="ServerRefusedError: the server refused: OOM …")
        assert broken_rules(refused, refusals=["OOM"]) == []


class TestPlainClient:
    """Beside the workers: a call may give up only when a plain client does, too."""

    FAILED = update(BOOT, None, None, 10, 15, error="StoreUnavailableError: …")
    OUTAGE = fault(10, 13, outage=True)

    @pytest.mark.parametrize(
        ("beside", "found"),
        [
            ([call("set", None, None, 11, 12)], True),
            ([call("set", None, None, 11, 12), call("get", None, None, 9, 14, error="ConnectionError")], False),
            ([call("set", None, None, 11, 12), call("get", None, None, 14, 19, error="ConnectionError")], False),
            ([call("set", None, None, 11, 12), call("get", None, None, 10, 14.8)], False),
            ([call("set", None, None, 11, 12), call("get", None, None, 4, 9, error="ConnectionError")], True),
            ([call("set", None, None, 9, 12), call("set", None, None, 12, math.inf)], False),
            ([], False),
        ],
    )
    def test_call_that_a_plain_client_survives_is_found(self, beside, found):
        history = History([self.FAILED], [self.OUTAGE], DEADLINE, beside)
        rules = [one.rule for one in checker.check(history)]
        assert rules == ["a call gave up where a plain client did not"] * found

    def test_batch_that_gave_up_is_found_once(self):
        calls = [self.FAILED._replace(name="update_many", room=room) for room in range(4)]
        assert len(checker.needless_failures(History(calls, [], DEADLINE, [call("set", None, None, 11, 12)]))) == 1


def test_longest_wait_excludes_the_timeout_of_a_wait():
    calls = [call("wait", 3.0, BOOT, 0, 4), call("get", None, None, 0, math.inf), call("mirror", None, None, 0, 9)]
    assert checker.longest_wait(History(calls, [], DEADLINE)) == 1


class TestFinalState:
    def check(self, copy, ttls=None):
        return [one.rule for one in checker.check_end({1: BOOT, 2: None}, {0: copy}, ttls or {}, 60)]

    def test_equal_copy_and_short_ttls_are_accepted(self):
        assert self.check({1: BOOT, 2: None}, {"kvpoll:{a}:room:1": 60_000, "kvpoll:{a}:settings": 10**9}) == []

    @pytest.mark.parametrize("copy", [{1: READY, 2: None}, {1: None, 2: None}, {1: BOOT, 2: BOOT}])
    def test_mirror_that_differs_is_found(self, copy):
        assert self.check(copy) == ["a mirror differs from the table"]

    def test_mirror_that_is_not_synced_is_found(self):
        assert self.check(None) == ["a mirror did not become synced"]

    @pytest.mark.parametrize(("key", "ttl"), [("room:1", -1), ("room:1", 60_001), ("feed", -1)])
    def test_wrong_ttl_is_found(self, key, ttl):
        assert self.check({}, {f"kvpoll:{{a}}:{key}": ttl}) == ["a key has no TTL, or too long a one"]
