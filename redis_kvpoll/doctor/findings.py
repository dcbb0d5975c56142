"""What a check finds. The levels are those of the metric ``kvpoll_doctor_check``."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple


class Level(enum.IntEnum):
    """How bad a finding is."""

    UNKNOWN = -1
    """It could not be asked: the user may not, the server is too old, or it gave no answer."""
    WELL = 0
    NOTE = 1
    WARNING = 2
    PROBLEM = 3


class Observation(NamedTuple):
    """What a check has observed, without the name of the check."""

    level: Level
    found: str
    wanted: str = ""
    advice: str = ""


class Finding(NamedTuple):
    """The result of one check."""

    check: str
    level: Level
    found: str
    wanted: str = ""
    """What it should be; empty if that is what was found."""
    advice: str = ""
    """What to do, or a command that does it; empty if there is nothing to do."""


def unknown(found: str) -> Observation:
    return Observation(Level.UNKNOWN, found)


def well(found: str) -> Observation:
    return Observation(Level.WELL, found)


def note(found: str, wanted: str = "", advice: str = "") -> Observation:
    return Observation(Level.NOTE, found, wanted, advice)


def warning(found: str, wanted: str, advice: str) -> Observation:
    return Observation(Level.WARNING, found, wanted, advice)


def problem(found: str, wanted: str, advice: str) -> Observation:
    return Observation(Level.PROBLEM, found, wanted, advice)


def plural(count: int, word: str) -> str:
    """Return a number with its noun."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


_SEVERITY = (Level.WELL, Level.UNKNOWN, Level.NOTE, Level.WARNING, Level.PROBLEM)


def severity(found: Observation | Finding) -> int:
    """Return a number that grows with what needs attention; what is not known comes between well and a note."""
    return _SEVERITY.index(found.level)


def exit_status(findings: Iterable[Finding]) -> int:
    """Return 0 for well and notes, 3 for warnings, 4 for problems, and 1 if no server could be asked."""
    listed = list(findings)
    if all((finding.level is Level.UNKNOWN) == (finding.check != "reach") for finding in listed):
        return 1
    return {Level.PROBLEM: 4, Level.WARNING: 3}.get(max(finding.level for finding in listed), 0)
