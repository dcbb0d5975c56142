"""Histories of chaos runs, made by hand, and the rules that they break."""

from __future__ import annotations

from chaos import checker
from chaos.history import OBSERVER, CallRecord, FaultEvent, History

BOOT, READY, MOVE, OK, FAIL = 1, 2, 3, 4, 0
DEADLINE = 5.0
G, H = "1763800000000001", "1763800000000002"
"""Two generations."""


def call(name, argument, answer, began, ended, worker=0, error="", room=7):
    return CallRecord(worker, name, room, argument, answer, error, began, ended)


def update(status, outcome, now, began, ended, **rest):
    return call("update", status, [outcome, now], began, ended, **rest)


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
    return handle("entry", None, answer, began, ended, generation if answer else "", worker=OBSERVER)


def fault(began, ended, **rest):
    return FaultEvent("a fault", began, ended, **rest)


def broken_rules(*calls, faults=(), refusals=()):
    """The rules that a history breaks."""
    return sorted({found.rule for found in checker.check(History([*calls], [*faults], DEADLINE), refusals)})
