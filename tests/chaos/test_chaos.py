"""The table under faults, in short; and its checker, which must find what is wrong in histories made by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from chaos import checker, fenced, history, report
from chaos.history import Done, Fault, History, Writer
from chaos.run import run
from chaos.scenarios import SCENARIOS
from redis_kvpoll import KVPoll
from tests.support import pace

BOOT, READY, MOVE, OK, FAIL = 1, 2, 3, 4, 0
DEADLINE = 5.0
SEED = 1
TOLD = {"memory": "ServerRefusedError"}
"""What callers must be told in a run, or its faults have hurt nobody."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_short_run_shows_nothing_that_must_not_be(name, monkeypatch):
    monkeypatch.setattr(checker, "SLACK", pace.seconds(checker.SLACK))
    monkeypatch.setattr(fenced, "RESTORED", pace.seconds(fenced.RESTORED))
    scenario = SCENARIOS[name]
    if not scenario.needs():
        pytest.skip(scenario.missing)
    state = run(name, scenario, scenario.seconds, SEED)
    assert not state.violations, report.report([state])
    assert state.operations > 500 / pace.factor()
    assert state.faults.total() >= 2
    if name in TOLD:
        assert state.errors[TOLD[name]]


def test_the_command_says_what_was_found():
    command = [sys.executable, "-m", "chaos", "--only", "amnesia", "--seconds", "0.5", "--seed", "1"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=pace.seconds(60)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL of the server, restart without its data" in done.stdout
    assert ", 0 violations; the longest that any caller waited: " in done.stdout.splitlines()[-1]


# The classify_failure itself


def call(name, argument, answer, began, ended, worker=0, error="", room=7):
    return Done(worker, name, room, argument, answer, error, began, ended)


def update(status, outcome, now, began, ended, **rest):
    return call("update", status, [outcome, now], began, ended, **rest)


def rules(*calls, faults=(), refusals=()):
    """The rules that a history breaks."""
    return sorted({violation.rule for violation in checker.check(History([*calls], [*faults], DEADLINE), refusals)})


CREATED = update(BOOT, "CREATED", BOOT, 0, 1)
ADVANCED = update(MOVE, "ADVANCED", MOVE, 2, 3)
CLEARED = call("clear", None, MOVE, 4, 5)
BACK, AGAIN, MISFIT = "a room went back", "a room came back", "an answer that no rule gives"
UNDOCUMENTED, LATE = "an exception that nobody documented", "a caller waited too long"
NOT_OUTLIVED, EARLY = "a call failed for a fault that it should outlive", "a call gave up before its deadline"
UNKNOWN, REFUSED = "an outcome is unknown for no reason", "a refusal that nobody arranged"

BAD = {
    "a status went back": ([CREATED, ADVANCED, call("get", None, BOOT, 4, 5)], BACK),
    "another worker saw it go back": ([CREATED, ADVANCED, call("poll", None, READY, 4, 5, worker=1)], BACK),
    "a mirror shows what was long ago": ([CREATED, ADVANCED, call("mirror", None, BOOT, 4, 5, worker=1)], BACK),
    "a wait answers what was long ago": ([CREATED, ADVANCED, call("wait", 0.1, READY, 4, 5)], BACK),
    "Failed was left": (
        [CREATED, call("abort", None, ["FAILED", FAIL], 2, 3), update(OK, "ADVANCED", OK, 4, 5)],
        BACK,
    ),
    "a room vanished": ([CREATED, call("get", None, None, 2, 3)], BACK),
    "a room was made twice": ([CREATED, update(READY, "CREATED", READY, 2, 3)], BACK),
    "an update found nothing where there was something": ([CREATED, update(MOVE, "SKIPPED", None, 2, 3)], BACK),
    "a clear found less than there was": ([ADVANCED, call("clear", None, BOOT, 4, 5)], BACK),
    "a clear found nothing": ([ADVANCED, call("clear", None, None, 4, 5)], BACK),
    "two clears took the same room": ([ADVANCED, CLEARED, call("clear", None, MOVE, 6, 7)], AGAIN),
    "a late status brought a room back": ([ADVANCED, CLEARED, update(OK, "ADVANCED", OK, 6, 7)], AGAIN),
    "a cleared room is seen": ([ADVANCED, CLEARED, call("get", None, MOVE, 6, 7, worker=3)], AGAIN),
    "a mirror shows a cleared room": ([ADVANCED, CLEARED, call("mirror", None, MOVE, 6, 7)], AGAIN),
    "an abort brought a room back": ([CLEARED, call("abort", None, ["UNCHANGED", FAIL], 6, 7)], AGAIN),
    "Failed made a room": ([update(FAIL, "CREATED", FAIL, 0, 1)], MISFIT),
    "an abort made a room": ([call("abort", None, ["CREATED", FAIL], 0, 1)], MISFIT),
    "Success made a room": ([update(OK, "CREATED", OK, 0, 1)], MISFIT),
    "a write was swallowed": ([update(OK, "UNCHANGED", BOOT, 0, 1)], MISFIT),
    "an advance that is none": ([update(OK, "ADVANCED", MOVE, 0, 1)], MISFIT),
    "a living status was refused": ([update(BOOT, "SKIPPED", None, 0, 1)], MISFIT),
    "a traceback": ([update(BOOT, None, None, 0, 1, error="KeyError: …")], UNDOCUMENTED),
    "an error of another call": ([update(BOOT, None, None, 0, 1, error="RoomNotFoundError: …")], UNDOCUMENTED),
    "an update whose outcome is unknown": ([update(BOOT, None, None, 0, 1, error="OutcomeUnknownError: …")], UNKNOWN),
    "a clear whose outcome is unknown": ([call("clear", None, None, 0, 1, error="OutcomeUnknownError: …")], UNKNOWN),
    "a refusal": ([update(BOOT, None, None, 0, 1, error="ServerRefusedError: NOPERM")], REFUSED),
    "gave up": ([update(BOOT, None, None, 0, 1, error="StoreUnavailableError: …")], EARLY),
    "failed": ([update(BOOT, None, None, 0, 5, error="StoreUnavailableError: …")], NOT_OUTLIVED),
    "hung": ([update(BOOT, "CREATED", BOOT, 0, 8)], LATE),
    "a wait hung": ([call("wait", 1.0, BOOT, 0, 9)], LATE),
}


@pytest.mark.parametrize("story", BAD)
def test_the_judge_finds(story):
    calls, rule = BAD[story]
    assert rules(*calls) == [rule]


def fault(began, ended, **rest):
    return Fault("hurt", began, ended, **rest)


OPEN = math.inf
GOOD = {
    "a whole life": [CREATED, ADVANCED, CLEARED, call("get", None, None, 6, 7)],
    "another room": [CREATED, ADVANCED, call("get", None, BOOT, 4, 5, room=8)],
    "looks that overlap": [CREATED, ADVANCED, call("get", None, BOOT, 2.5, 5)],
    "a clear between": [CREATED, ADVANCED, CLEARED, update(BOOT, "CREATED", BOOT, 6, 7)],
    "a clear that was under way": [ADVANCED, call("clear", None, MOVE, 2, 9, worker=1), call("get", None, None, 4, 5)],
    "a clear by who was killed": [ADVANCED, call("clear", None, None, 0, OPEN), call("get", None, None, 4, 5)],
    "a room made by who was killed": [CLEARED, update(BOOT, None, None, 0, OPEN), call("get", None, BOOT, 6, 7)],
    "a wait that took its time": [call("wait", 3.0, BOOT, 0, 9)],
    "a wait that ended so": [call("wait", 0.1, None, 0, 1, error="WaitTimeoutError: …")],
}


@pytest.mark.parametrize("story", GOOD)
def test_the_judge_accepts(story):
    assert rules(*GOOD[story]) == []


class TestFaultsExplain:
    @pytest.mark.parametrize(("loses", "rule"), [("all", []), ("latest", []), ("", [BACK])])
    def test_the_loss_of_data(self, loses, rule):
        lost = [CREATED, ADVANCED, call("get", None, None, 6, 7), update(BOOT, "CREATED", BOOT, 8, 9)]
        assert rules(*lost, faults=[fault(3.5, 5, loses=loses)]) == rule

    @pytest.mark.parametrize(("loses", "rule"), [("all", [AGAIN]), ("latest", []), ("", [AGAIN])])
    def test_only_of_the_latest_data_brings_a_room_back(self, loses, rule):
        restored = [ADVANCED, CLEARED, call("get", None, MOVE, 8, 9)]
        assert rules(*restored, faults=[fault(5.5, 7, loses=loses)]) == rule

    def test_but_only_what_came_before_it(self):
        later = [update(MOVE, "ADVANCED", MOVE, 6, 7), call("get", None, BOOT, 8, 9)]
        assert rules(*later, faults=[fault(3.5, 5, loses="all")]) == [BACK]

    def test_a_copy_that_comes_late(self):
        """The update had met a fault, so one more copy of it may have been on its way when the room was cleared."""
        late = [CREATED, call("clear", None, BOOT, 3, 4), call("get", None, BOOT, 5, 6)]
        assert rules(*late) == [AGAIN]
        assert rules(*late, faults=[fault(0.5, 2)]) == []
        assert rules(*late, faults=[fault(1.5, 2)]) == [AGAIN]

    def test_a_clear_whose_outcome_is_unknown(self):
        lost = [ADVANCED, call("clear", None, None, 4, 5, error="OutcomeUnknownError: …")]
        assert rules(*lost, call("get", None, None, 8, 9), faults=[fault(4.5, 6)]) == []

    @pytest.mark.parametrize(("ended", "rule"), [(4, []), (2, [NOT_OUTLIVED])])
    def test_an_outage_that_was_long_enough(self, ended, rule):
        failed = update(BOOT, None, None, 0, 5, error="StoreUnavailableError: …")
        assert rules(failed, faults=[fault(1, ended, outage=True)]) == rule
        assert rules(failed, faults=[fault(1, ended)]) == [NOT_OUTLIVED]

    def test_a_stop_of_the_worker_itself(self):
        hung = update(BOOT, "CREATED", BOOT, 0, 9)
        assert rules(hung, faults=[fault(1, 8, worker=0)]) == []
        assert rules(hung, faults=[fault(1, 8, worker=1)]) == [LATE]

    def test_a_refusal_that_was_arranged(self):
        refused = update(BOOT, None, None, 0, 1, error="ServerRefusedError: the server refused: OOM …")
        assert rules(refused, refusals=["OOM"]) == []


def test_the_longest_wait_is_without_what_the_caller_asked_for():
    calls = [call("wait", 3.0, BOOT, 0, 4), call("get", None, None, 0, OPEN), call("mirror", None, None, 0, 9)]
    assert checker.longest_wait(History(calls, [], DEADLINE)) == 1


class TestTheEnd:
    def check(self, copy, ttls=None):
        return [one.rule for one in checker.check_end({1: BOOT, 2: None}, {0: copy}, ttls or {}, 60)]

    def test_all_is_well(self):
        assert self.check({1: BOOT, 2: None}, {"kvpoll:{a}:room:1": 60_000, "kvpoll:{a}:settings": 10**9}) == []

    @pytest.mark.parametrize("copy", [{1: READY, 2: None}, {1: None, 2: None}, {1: BOOT, 2: BOOT}])
    def test_a_mirror_that_differs(self, copy):
        assert self.check(copy) == ["a mirror is not what the table is"]

    def test_a_mirror_that_never_got_there(self):
        assert self.check(None) == ["a mirror does not get to be current"]

    @pytest.mark.parametrize(("key", "ttl"), [("room:1", -1), ("room:1", 60_001), ("feed", -1)])
    def test_a_wrong_ttl(self, key, ttl):
        assert self.check({}, {f"kvpoll:{{a}}:{key}": ttl}) == ["a key has no TTL, or too long a one"]


class TestHistory:
    def test_is_read_as_it_was_written(self, tmp_path):
        writer = Writer(tmp_path / "calls")
        first = writer.begin("update_many", {1: BOOT, 2: KVPoll.Success})
        second = writer.begin("clear", {2: None})
        writer.end(first, {1: ["CREATED", BOOT], 2: ["SKIPPED", None]})
        writer.saw(1, BOOT, 5.0)
        calls = history.read(tmp_path / "calls", 3)
        assert [done[:6] for done in calls] == [
            (3, "update_many", 1, BOOT, ["CREATED", BOOT], ""),
            (3, "update_many", 2, OK, ["SKIPPED", None], ""),
            (3, "mirror", 1, None, BOOT, ""),
            (3, "clear", 2, None, None, ""),
        ]
        assert second != first
        assert 0 < calls[0].began <= calls[0].ended < calls[3].ended == OPEN
        assert calls[2].began == 5.0

    def test_half_a_line_of_who_was_killed(self, tmp_path):
        writer = Writer(tmp_path / "calls")
        number = writer.begin("clear", {1: None})
        writer.end(number, {1: BOOT})
        text = (tmp_path / "calls").read_bytes()
        (tmp_path / "calls").write_bytes(text[:-3])
        assert [done.ended for done in history.read(tmp_path / "calls", 0)] == [OPEN]

    def test_of_who_never_began(self, tmp_path):
        assert history.read(tmp_path / "calls", 0) == []


# The classify_failure of handles

G, H = "1763800000000001", "1763800000000002"


def handle(name, argument, answer, began, ended, generation=G, worker=0, request=""):
    return call(name, argument, answer, began, ended, worker)._replace(generation=generation, request=request)


def opened(began, ended, status=BOOT, generation=G, worker=0, request="a"):
    return handle("open", status, [None, None], began, ended, generation, worker, request)


def wrote(outcome, now, began, ended, given=None, **rest):
    return handle("write", now if given is None else given, [outcome, now], began, ended, **rest)


def released(began, ended, **rest):
    return handle("release", None, ["CLEARED", None], began, ended, **rest)


def entry(status, began, ended, generation=G, owner=None, reason=None):
    answer = None if status is None else [owner, status, reason]
    return handle("entry", None, answer, began, ended, generation if answer else "", worker=history.JUDGE)


OPENED, MOVED = opened(0, 1), wrote("ADVANCED", MOVE, 2, 3)
GEN_BACK, GEN_AGAIN, GIVEN = "a generation went back", "a generation came back", "a living room was given away"
BAD_HANDLES = {
    "two requests share one": ([OPENED, opened(2, 3, worker=1, request="b")], "two requests share a generation"),
    "a status went back": ([OPENED, MOVED, entry(BOOT, 4, 5)], GEN_BACK),
    "another saw it go back": ([OPENED, MOVED, handle("look", None, [None, READY], 4, 5, worker=1)], GEN_BACK),
    "Failed was left": ([OPENED, handle("fail", FAIL, ["FAILED", FAIL], 2, 3), wrote("ADVANCED", OK, 4, 5)], GEN_BACK),
    "a room vanished": ([OPENED, entry(None, 2, 3)], GEN_BACK),
    "its handle finds nothing": ([OPENED, handle("look", None, None, 2, 3)], GEN_BACK),
    "a cleared one was joined": ([OPENED, released(2, 3), opened(4, 5, worker=1)], GEN_AGAIN),
    "a write was stale for no reason": ([OPENED, wrote("STALE", None, 2, 3, given=MOVE)], GEN_BACK),
    "a living room was opened anew": ([OPENED, opened(2, 3, generation=H, worker=1, request="b")], GIVEN),
    "a stale write changed something": ([OPENED, released(2, 3), wrote("ADVANCED", MOVE, 4, 5, worker=1)], GEN_AGAIN),
    "a cleared generation is seen": ([OPENED, released(2, 3), entry(BOOT, 4, 5)], GEN_AGAIN),
    "a stale handle lives again": (
        [OPENED, released(2, 3), wrote("STALE", None, 4, 5, given=OK), wrote("ADVANCED", OK, 6, 7, worker=1)],
        GEN_AGAIN,
    ),
}


@pytest.mark.parametrize("story", BAD_HANDLES)
def test_the_judge_of_handles_finds(story):
    calls, rule = BAD_HANDLES[story]
    assert rules(*calls) == [rule]


FAILED_ROOM = handle("fail", FAIL, ["FAILED", FAIL], 2, 3)
GOOD_HANDLES = {
    "a whole life": [OPENED, MOVED, released(4, 5), wrote("STALE", None, 6, 7, given=OK), entry(None, 8, 9)],
    "one after the other": [OPENED, released(2, 3), opened(4, 5, generation=H, request="b"), entry(BOOT, 6, 7, H)],
    "a failed room opened anew": [OPENED, FAILED_ROOM, opened(4, 5, generation=H, request="b", worker=1)],
    "a failure by who was killed": [
        OPENED,
        handle("fail", FAIL, None, 2, OPEN, worker=1),
        opened(4, 5, generation=H, request="b", worker=2),
    ],
    "joined": [OPENED, opened(2, 3, worker=1), handle("attach", None, [None, None], 4, 5, worker=2)],
    "two that open it at once": [opened(0, 7), entry(None, 2, 3), opened(4, 5, worker=1)],
    "a clear that was under way": [OPENED, released(1.5, 9), entry(None, 2, 3)],
}


@pytest.mark.parametrize("story", GOOD_HANDLES)
def test_the_judge_of_handles_accepts(story):
    assert rules(*GOOD_HANDLES[story]) == []


class TestFaultsAndHandles:
    LOST = fault(10, 11, loses="all", anew=True)

    def test_what_was_lost_must_be_there_again_after_two_seconds(self):
        assert rules(OPENED, MOVED, entry(None, 12, 12.5), entry(MOVE, 14, 15), faults=[self.LOST]) == []
        assert rules(OPENED, MOVED, entry(None, 14, 15), faults=[self.LOST]) == [GEN_BACK]
        assert rules(OPENED, MOVED, entry(BOOT, 14, 15), faults=[self.LOST]) == [GEN_BACK]

    def test_what_its_owner_cleared_stays_cleared(self):
        seen = entry(BOOT, 14, 15)
        assert rules(OPENED, released(2, 3), seen, faults=[self.LOST]) == [GEN_AGAIN]
        assert rules(OPENED, released(2, 3, worker=1), seen, faults=[self.LOST]) == []
        assert rules(OPENED, released(2, 3, worker=1), seen, faults=[fault(10, 11)]) == [GEN_AGAIN]
        assert rules(OPENED, released(2, 3), seen, faults=[fault(10, 11, loses="latest")]) == []

    @pytest.mark.parametrize(("at", "rule"), [(11.5, []), (13.5, [GEN_AGAIN])])
    def test_an_opener_may_find_the_other_server_after_the_clear_of_another(self, at, rule):
        cleared = released(at, at + 0.1, worker=1)
        assert rules(OPENED, cleared, entry(BOOT, 14, 15), faults=[fault(10, 11, anew=True)]) == rule

    @pytest.mark.parametrize(("asked_at", "rule"), [(13, []), (11.2, [GEN_AGAIN])])
    def test_an_opener_has_found_it_by_the_end_of_its_first_call(self, asked_at, rule):
        asked = update(BOOT, "CREATED", BOOT, asked_at, asked_at + 0.6)._replace(room=99)
        cleared = released(13.5, 13.6, worker=1)
        assert rules(OPENED, asked, cleared, entry(BOOT, 14, 15), faults=[fault(10, 11, anew=True)]) == rule

    def test_a_room_that_had_failed_is_still_failed_for_who_comes_later(self):
        anew = opened(16, 17, generation=H, request="b", worker=1)
        late = opened(14, 15, worker=1), update(BOOT, "CREATED", BOOT, 4, 5, worker=1)._replace(room=99)
        assert rules(OPENED, FAILED_ROOM, *late, anew, faults=[fault(1.5, 3.5, loses="latest", anew=True)]) == []
        assert rules(OPENED, *late, anew, faults=[fault(1.5, 3.5, loses="latest", anew=True)]) == [GIVEN]

    @pytest.mark.parametrize("anew", [True, False])
    def test_an_opener_may_know_neither_the_failure_nor_who_came_after_it(self, anew):
        failed = handle("fail", FAIL, ["FAILED", FAIL], 4, 5, worker=1)
        other = opened(6, 7, generation=H, request="b", worker=1), released(8, 9, generation=H, worker=1)
        found = rules(OPENED, MOVED, failed, *other, entry(MOVE, 14, 15), faults=[fault(9.5, 11, anew=anew)])
        assert found == ([] if anew else [GEN_AGAIN, GEN_BACK])

    @pytest.mark.parametrize(("at", "rule"), [(12, []), (16, [GIVEN])])
    def test_what_was_lost_may_be_opened_anew_before_its_owner_comes_back(self, at, rule):
        anew = opened(at, at + 0.5, generation=H, request="b", worker=1)
        assert rules(OPENED, anew, entry(BOOT, 18, 19, H), faults=[self.LOST]) == rule

    def test_a_room_of_who_was_stopped_may_be_another_s(self):
        anew = opened(4, 5, generation=H, request="b", worker=1)
        assert rules(OPENED, anew, faults=[fault(1.5, 3, worker=0)]) == []
        assert rules(OPENED, anew, faults=[fault(1.5, 3, worker=1)]) == [GIVEN]

    @pytest.mark.parametrize(("status", "seen", "alive"), [(BOOT, 9, True), (BOOT, 7.5, False), (FAIL, 9, False)])
    def test_a_dead_owners_room(self, status, seen, alive):
        found = fenced.lives_on([entry(status, seen, seen + 0.1, owner="w")], {"w": 5.0}, lease=1.0)
        assert [one.rule for one in found] == ["a dead owner's room lives on"] * alive

    @pytest.mark.parametrize("hurt", [{}, {"w"}])
    def test_a_living_owner(self, hurt):
        lost, aborted = (entry(FAIL, 1, 2, owner="w", reason=why) for why in ("owner w lost", "by chance"))
        found = [one.rule for one in fenced.taken_for_dead([lost, aborted], hurt)]
        assert found == ([] if hurt else ["a living owner was taken for dead"])

    @pytest.mark.parametrize(("worker", "rule"), [(0, []), (1, ["a living owner lost its lease"])])
    def test_who_is_told_that_it_was_taken_for_dead(self, worker, rule):
        told = update(BOOT, None, None, 4, 5, error="LeaseLostError: …")
        assert rules(told, faults=[fault(1, 3, worker=worker)]) == rule

    def test_a_guest_s_time_may_go_by_in_waiting_for_its_opener(self):
        failed = handle("write", OK, None, 0, 5)._replace(error="StoreUnavailableError: …")
        assert rules(failed, faults=[fault(4, 4.5, outage=True, anew=True)]) == []
        assert rules(failed, faults=[fault(-9, -8, anew=True)]) == []
        assert rules(failed, faults=[fault(-12, -11, anew=True)]) == [NOT_OUTLIVED]
        assert rules(failed, faults=[fault(4, 4.5, outage=True)]) == [NOT_OUTLIVED]
