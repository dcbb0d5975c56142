"""The results of a run: rows, with their budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.measure import Spread, Times, ratio

Unit = Literal["us", "ms", "per_second", "bytes", "ratio"]

Pictured = Literal["figure", "ours", "theirs"]
"""The column in a section's picture: the ratio; ours, with a line to theirs (a median and its p99); or theirs."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The limit of a row's figure: an upper one, or a lower one."""

    limit: float
    at_least: bool = False

    def holds(self, figure: float) -> bool:
        return figure >= self.limit if self.at_least else figure <= self.limit


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. The budget limits ``figure``: a ratio, bytes or milliseconds.

    A row without a figure could not be measured; ``note`` has the reason.
    """

    name: str
    against: str
    unit: Unit
    ours: float | None
    theirs: float | None
    figure: Spread | None
    budget: Budget | None = None
    note: str = ""
    lacks: str = ""

    @property
    def result(self) -> str:
        if self.budget is None or self.figure is None:
            return self.note
        return "within" if self.budget.holds(self.figure.median) else "over"


@dataclass(slots=True)
class Section:
    """Rows that belong together, and the meaning of their ratio."""

    id: str
    title: str
    figure: str
    rows: list[Row] = field(default_factory=list)
    ours: str = "ours"
    theirs: str = "theirs"
    pictured: Pictured = "figure"
    named: dict[str, Any] = field(default_factory=dict)
    """Figures under names that programs may rely on, for the top of the JSON."""


def compare(name: str, ours: str, against: str, theirs: str, times: Times, budget: Budget | None = None) -> Row:
    """A row of ours / theirs: 1 is as fast, less is faster. ``ours`` and ``theirs`` name the contenders."""
    a, b = times[ours], times[theirs]
    return Row(name, against, "us", _us(a), _us(b), ratio(a, b), budget)


def cheaper(name: str, ours: str, against: str, theirs: str, times: Times, budget: Budget | None = None) -> Row:
    """A row of theirs / ours: how many times cheaper ours is."""
    a, b = times[ours], times[theirs]
    return Row(name, against, "us", _us(a), _us(b), ratio(b, a), budget)


def _us(seconds: Sequence[float]) -> float:
    return Spread.of(seconds).median * 1e6


def value(row: Row, number: float | None) -> str:
    """A number with the row's unit; empty for None."""
    if number is None:
        return ""
    return measured(row.unit, number)


def measured(unit: Unit, number: float) -> str:
    match unit:
        case "us":
            return f"{plain(number)} µs"
        case "ms":
            return f"{plain(number)} ms"
        case "per_second":
            return f"{number:,.0f}/s"
        case "bytes":
            return f"{plain(number)} B" if number < 1e5 else f"{plain(number / 1e6)} MB"
        case _:
            return plain(number)


def plain(number: float) -> str:
    """A number with about three digits."""
    if number < 0.1:
        return f"{number:.3f}"
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:,.0f}"
