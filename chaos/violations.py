"""What the checkers work with: observations, times, and violations."""

from __future__ import annotations

from typing import NamedTuple

from chaos.history import CallRecord


class Violation(NamedTuple):
    """A broken rule, in words."""

    rule: str
    detail: str
    room: int | None = None


class Span(NamedTuple):
    """A time within which something may have happened."""

    began: float
    ended: float


class Observation(NamedTuple):
    """How far a room or a generation had got at some moment of a call."""

    place: float
    record: CallRecord
