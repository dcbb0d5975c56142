"""The checker of an engine finds what is wrong in histories made by hand, and accepts what has a cause."""

from __future__ import annotations

import math

import pytest

from chaos import told
from chaos.history import CallRecord
from chaos.told import Process

OWN, SHARED = 5, 60
FAIL, BOOT, WAIT, MOVE, OK = range(5)
DIFFERS = "the table does not have what a process has told"
FAILED = "a room of a living process failed"


def call(name, argument, status, room=OWN, worker=0, is_sent=True, ended=1.0):
    return CallRecord(worker, name, room, argument, [status, is_sent], "", 0.0, ended)


def begin(**options):
    return call("begin", BOOT, BOOT, **options)


def advance(status, **options):
    return call("advance", status, status, **options)


def fail(**options):
    return call("fail", FAIL, FAIL, **options)


def clear(status, **options):
    return call("end", status, None, **options)


def broken(calls, table, statuses=(None,)):
    """The rules that are broken by processes with these statuses in the end."""
    processes = [Process(number, number, found) for number, found in enumerate(statuses)]
    return [violation.rule for violation in told.check(calls, processes, table, SHARED)]


ENDED = {
    "live": ([begin()], FAIL),
    "complete": ([begin(), advance(OK)], OK),
    "failed": ([begin(), fail()], FAIL),
    "cleared": ([begin(), clear(BOOT)], None),
    "opened again": ([begin(), clear(BOOT), begin()], FAIL),
    "killed in a call": ([begin(), advance(OK, ended=math.inf)], OK),
    "killed in a clear": ([begin(), advance(OK), clear(OK, ended=math.inf)], None),
    "not sent": ([begin(), advance(OK, is_sent=False)], OK),
}


@pytest.mark.parametrize("story", ENDED)
def test_part_of_an_ended_process_is_what_it_told(story):
    """A live one is Failed; of what was not sent, and of the last call, either may be there."""
    calls, wanted = ENDED[story]
    assert broken(calls, {OWN: {} if wanted is None else {0: wanted}}) == []
    assert broken(calls, {OWN: {0: MOVE}}) == [DIFFERS]


def test_what_an_ended_process_sent_must_be_there():
    calls = [begin(), advance(OK)]
    assert broken(calls, {}) == [DIFFERS]
    assert broken(calls, {OWN: {0: FAIL}}) == [DIFFERS]
    assert broken([begin(), advance(OK, is_sent=False)], {OWN: {0: FAIL}}) == []


def test_what_a_leaving_process_tells_may_be_cut():
    calls = [begin(), advance(OK, ended=2.0)]
    leaving = [Process(0, 0, None, leaves_at=1.5)]
    for found, rules in ((OK, []), (FAIL, []), (BOOT, [DIFFERS])):
        assert [one.rule for one in told.check(calls, leaving, {OWN: {0: found}}, SHARED)] == rules


def test_part_of_a_living_process_is_its_own_status():
    assert broken([begin()], {OWN: {0: BOOT}}, [{OWN: BOOT}]) == []
    assert broken([begin()], {OWN: {0: FAIL}}, [{OWN: BOOT}]) == [DIFFERS]
    assert broken([begin()], {}, [{OWN: BOOT}]) == [DIFFERS]
    assert broken([begin(), clear(BOOT)], {OWN: {0: BOOT}}, [{}]) == [DIFFERS]


@pytest.mark.parametrize(
    ("calls", "in_the_end"),
    [
        ([begin()], {OWN: FAIL}),
        ([begin(), call("advance", WAIT, FAIL), clear(FAIL)], {}),
        ([begin(), fail(), clear(FAIL), begin(), clear(FAIL)], {}),
    ],
)
def test_failure_that_a_living_process_did_not_cause_is_found(calls, in_the_end):
    """In the end, after a call, or at its clear; a failure of the room's former life explains nothing."""
    table = {room: {0: status} for room, status in in_the_end.items()}
    assert broken(calls, table, [in_the_end]) == [FAILED]


def test_own_failure_is_no_violation():
    assert broken([begin(), fail()], {OWN: {0: FAIL}}, [{OWN: FAIL}]) == []


@pytest.mark.parametrize(
    "other",
    [[begin(room=SHARED, worker=1), fail(room=SHARED, worker=1)], [begin(room=SHARED, worker=1)]],
    ids=["failed it", "ended"],
)
def test_shared_room_fails_with_another_rank(other):
    calls = [begin(room=SHARED), *other]
    assert broken(calls, {SHARED: {0: BOOT, 1: FAIL}}, [{SHARED: FAIL}, None]) == []


def test_shared_room_does_not_fail_for_nothing():
    """The other rank lives, or its part was complete when it ended."""
    calls = [begin(room=SHARED), begin(room=SHARED, worker=1)]
    assert FAILED in broken(calls, {SHARED: {0: FAIL, 1: BOOT}}, [{SHARED: FAIL}, {SHARED: BOOT}])
    calls.append(advance(OK, room=SHARED, worker=1))
    assert FAILED in broken(calls, {SHARED: {0: FAIL, 1: OK}}, [{SHARED: FAIL}, None])
