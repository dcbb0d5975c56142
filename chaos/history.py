"""The history of one run: the calls of all workers with their answers, and the injected faults.

A worker appends a line when it begins a call and another when the call ends, each with one write: a worker that is
killed leaves everything but perhaps its last line. Times are of the monotonic clock, which all processes share.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

OBSERVER = -1
"""The worker number of the run's own reads of the table, after all calls have ended."""


Loss = Literal["", "all", "latest"]
"""All data, or the latest acknowledged writes. Those include clears, so a cleared room may be there again."""


class CallRecord(NamedTuple):
    """One call, as far as it concerns one room, as its caller saw it."""

    worker: int
    name: str
    room: int
    argument: Any
    """A status for updates, seconds for waits."""
    answer: Any
    """[outcome, status] for writes; a status, or None for absent, for reads and clears. Statuses are numbers."""
    error: str
    """The exception's class and message; empty if there was an answer."""
    began: float
    ended: float
    """Infinite if the worker was killed before."""
    generation: str = ""
    """The generation, of calls through a handle and those that return one."""
    request: str = ""
    """The request that a room is opened for."""


class FaultEvent(NamedTuple):
    """An injected fault, until everything worked again."""

    name: str
    began: float
    ended: float
    worker: int | None = None
    """The worker that it hit; None: the servers, or the network."""
    outage: bool = False
    """Whether calls had to wait until its end."""
    loses: Loss = ""
    """Which data the table lost."""
    triggers_recovery: bool = False
    """Whether stores found a new or another server, and replay their rooms."""
    kept_until: float = -math.inf
    """When the latest writes are lost: the calls that ended before this time are known to have survived."""

    def spares(self, record: CallRecord) -> bool:
        """Whether what a call did, or saw, is known to have survived."""
        return not self.loses or (self.loses == "latest" and record.ended < self.kept_until)


class History(NamedTuple):
    """All calls and faults of a run."""

    calls: list[CallRecord]
    faults: list[FaultEvent]
    deadline: float
    """The stores' deadline of a call, in seconds."""
    plain: Sequence[CallRecord] = ()
    """The calls of a plain redis-py client beside the workers."""


class HistoryWriter:
    """Appends one worker's calls to its file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers = itertools.count()  # threads may share a writer

    def begin(self, name: str, arguments: Mapping[int, Any], generation: str = "", request: str = "") -> int:
        number = next(self._numbers)
        self._append(["begin", number, name, list(arguments.items()), time.monotonic(), generation, request])
        return number

    def end(self, number: int, answers: Mapping[int, Any], error: str = "", generation: str = "") -> None:
        ended = time.monotonic()
        self._append(["end", number, list(answers.items()), error, ended, generation])

    def mirrored(self, room: int, status: int | None, since: float) -> None:
        """Record a status in a mirror that was current at some moment since a time."""
        self._append(["mirrored", room, status, since, time.monotonic()])

    def reported(self, room: int, generation: int, reason: str | None) -> None:
        """Record a failure that a follower of failures has reported."""
        self._append(["reported", room, generation, reason, time.monotonic()])

    def _append(self, line: list[Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


def read(path: Path, worker: int) -> list[CallRecord]:
    """The calls of one worker."""
    if not path.exists():
        return []  # it was killed before its first call
    # A killed worker may leave half a line after the last line break.
    return joined(worker, map(json.loads, path.read_bytes().split(b"\n")[:-1]))


def joined(worker: int, lines: Iterable[list[Any]]) -> list[CallRecord]:
    """The calls, from the lines of their begins and ends."""
    calls: list[CallRecord] = []
    begun: dict[int, list[Any]] = {}
    for kind, *rest in lines:
        if kind == "begin":
            begun[rest[0]] = rest
        elif kind == "end":
            number, answers, error, ended, learned = rest
            _, name, arguments, began, known, request = begun.pop(number)
            by_room = dict(answers)
            calls += [
                CallRecord(
                    worker, name, room, argument, by_room.get(room), error, began, ended, learned or known, request
                )
                for room, argument in arguments
            ]
        elif kind == "reported":
            room, generation, reason, now = rest
            calls.append(CallRecord(worker, kind, room, None, reason, "", now, now, str(generation)))
        else:
            room, status, since, now = rest
            calls.append(CallRecord(worker, "mirror", room, None, status, "", since, now))
    for _, name, arguments, began, known, request in begun.values():
        calls += [CallRecord(worker, name, room, a, None, "", began, math.inf, known, request) for room, a in arguments]
    return calls
