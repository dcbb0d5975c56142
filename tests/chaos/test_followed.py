"""The checker of followers finds what is wrong in histories made by hand, and accepts what has a cause."""

from __future__ import annotations

import math

import pytest

from chaos import followed
from chaos.checker import delayed_executions
from chaos.history import OBSERVER, CallRecord, FaultEvent
from redis_kvpoll import KVPoll

ROOM, OLD, NEW = 7, "100", "200"
FALSE = "a failure was reported that its generation did not have"
MISSING = "a failure of a held room was not reported"


def call(name, began, ended, answer=None, generation="", worker=0, error=""):
    return CallRecord(worker, name, ROOM, None, answer, error, began, ended, generation)


def claim(began, ended, generation=OLD, worker=0):
    return call("claim", began, ended, True, generation, worker)


def doom(began, ended, generation=OLD, outcome="FAILED"):
    return call("doom", began, ended, [outcome, 0], generation)


def stop(began, ended, outcome="FAILED"):
    return call("stop", began, ended, [outcome, 0])


def free(began, ended, generation=OLD):
    return call("free", began, ended, 0, generation)


def report(at, generation=OLD, reason="by chance", worker=1):
    return call(followed.REPORT, at, at, reason, generation, worker)


def held(generation=OLD, known=True, error=""):
    return call("held", 90, 90, known, generation, 1, error)


def entry(status=KVPoll.Failed, generation=OLD):
    return call("entry", 80, 80, ["worker-0", int(status), "why"], generation, OBSERVER)


def killed(worker, at):
    return FaultEvent("kill", at, at, worker)


def broken(calls, faults=()):
    return [violation.rule for violation in followed.check(calls, faults, delayed_executions(faults))]


BAD = {
    "nothing failed it": [claim(0, 1), report(5)],
    "the failing write came later": [claim(0, 1), report(5), doom(6, 7)],
    "the failing write was stale": [claim(0, 1), doom(2, 3, outcome="STALE"), report(5)],
    "the abort found nothing": [claim(0, 1), stop(2, 3, outcome="SKIPPED"), report(5)],
    "another generation failed": [claim(0, 1), doom(2, 3), free(4, 5), claim(6, 7, NEW), report(8, NEW)],
    "the abort was before the opening": [claim(0, 1), stop(2, 3), free(4, 5), claim(6, 7, NEW), report(8, NEW)],
    "the abort was after the clear": [claim(0, 1), free(2, 3), claim(4, 5, NEW), stop(6, 7), report(8, OLD)],
    "no owner was lost": [claim(0, 1), report(5, reason="owner worker-0 lost")],
}
GOOD = {
    "a failing write": [claim(0, 1), doom(2, 3), report(5)],
    "a write that was not answered": [claim(0, 1), call("doom", 2, math.inf, None, OLD), report(5)],
    "an abort while it lived": [claim(0, 1), stop(2, 3), report(5)],
    "read after the next opening": [claim(0, 1), stop(2, 3), free(4, 5), claim(6, 7, NEW), report(8, OLD)],
    "an abort at the moment of the opening": [claim(2, 5), stop(3, 4), report(6)],
}


@pytest.mark.parametrize("story", BAD)
def test_report_without_a_cause_is_found(story):
    assert broken(BAD[story]) == [FALSE]


@pytest.mark.parametrize("story", GOOD)
def test_report_with_a_cause_is_accepted(story):
    assert broken(GOOD[story]) == []


@pytest.mark.parametrize(("at", "is_cause"), [(2.5, True), (1.5, False)], ids=["during it", "before it"])
def test_repeated_write_may_have_failed_it_before(at, is_cause):
    """The server was killed before it replied; then the room was opened again, and the repeated write is stale."""
    restart = FaultEvent("SIGKILL of the server, restart with its data", at, at + 0.1)
    assert broken([claim(0, 1), doom(2, 4, outcome="STALE"), report(3)], [restart]) == [FALSE] * (not is_cause)


def test_loss_of_its_opener_is_a_cause():
    calls = [claim(0, 1), report(5, reason="owner worker-0 lost")]
    assert broken(calls, [killed(0, 2)]) == []
    assert broken(calls, [killed(3, 2)]) == [FALSE]


@pytest.mark.parametrize(
    ("records", "rules"),
    [
        ([held(known=False), entry()], [MISSING]),
        ([held(known=True), entry()], []),
        ([held(NEW, known=False), entry()], []),
        ([held(known=False), entry(KVPoll.Transferring)], []),
        ([held(known=None, error="NotSynced: it is not"), entry()], []),
    ],
)
def test_held_generation_that_failed_must_be_known(records, rules):
    """What is held in another generation, or lives, need not be; one that is not synced is another rule's."""
    assert broken(records) == rules
