"""What the workers of one run did and were told, and what was done to them meanwhile.

A worker appends a line when it begins a call and another when that ends, each with one write, so that a worker that is
killed leaves all but perhaps its last line. Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

JUDGE = -1
"""The worker number of the run's own looks at the table, when all is over."""


Loss = Literal["", "all", "latest"]
"""Everything; or what was acknowledged last, clears included, so that what was cleared may be there again."""


class Done(NamedTuple):
    """One call, as far as it concerns one room, seen by the process that made it."""

    worker: int
    name: str
    room: int
    argument: Any
    """A status for updates, seconds for waits."""
    answer: Any
    """[outcome, status] for writes; a status, or None for absent, for what reads or clears. Statuses are numbers."""
    error: str
    """The exception's class and message; empty if there was an answer."""
    began: float
    ended: float
    """Infinite when the worker was killed before."""
    generation: str = ""
    """Of calls through a handle, and those that answer with one."""
    request: str = ""
    """Of what opens a room."""


class Fault(NamedTuple):
    """Something that was done to servers or workers, until all was well again."""

    name: str
    began: float
    ended: float
    worker: int | None = None
    """Whom it hit; None: the servers, or the way to them."""
    outage: bool = False
    """Whether calls had to wait until its end."""
    loses: Loss = ""
    """What of the table's data went by it."""
    anew: bool = False
    """Whether a server began anew, or is another since: owners then say again what they hold."""


class History(NamedTuple):
    """All of a run."""

    calls: list[Done]
    faults: list[Fault]
    deadline: float
    """Seconds that the stores give a call."""


class Writer:
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

    def saw(self, room: int, status: int | None, since: float) -> None:
        """A local copy said so, which was current at some moment since then."""
        self._append(["saw", room, status, since, time.monotonic()])

    def _append(self, line: list[Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


def read(path: Path, worker: int) -> list[Done]:
    """The calls of one worker."""
    if not path.exists():
        return []  # it was killed before its first
    # What stands behind the last line break is half a line, of a worker that was killed.
    return joined(worker, map(json.loads, path.read_bytes().split(b"\n")[:-1]))


def joined(worker: int, lines: Iterable[list[Any]]) -> list[Done]:
    """The calls, from the lines for their begins and ends."""
    calls: list[Done] = []
    begun: dict[int, list[Any]] = {}
    for kind, *rest in lines:
        if kind == "begin":
            begun[rest[0]] = rest
        elif kind == "end":
            number, answers, error, ended, learned = rest
            _, name, arguments, began, known, request = begun.pop(number)
            told = dict(answers)
            calls += [
                Done(worker, name, room, argument, told.get(room), error, began, ended, learned or known, request)
                for room, argument in arguments
            ]
        else:
            room, status, since, now = rest
            calls.append(Done(worker, "mirror", room, None, status, "", since, now))
    for _, name, arguments, began, known, request in begun.values():
        calls += [Done(worker, name, room, a, None, "", began, math.inf, known, request) for room, a in arguments]
    return calls
