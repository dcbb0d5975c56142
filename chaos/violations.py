"""What the judges of a history speak of."""

from __future__ import annotations

from typing import NamedTuple


class Violation(NamedTuple):
    """One thing that must not be, in words."""

    rule: str
    what: str
    room: int | None = None
    """The one that it is about."""


class Span(NamedTuple):
    """A time within which something may have happened."""

    began: float
    ended: float
