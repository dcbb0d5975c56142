"""What a run found: rows, each with the budget it is held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bench.measure import Spread, Times, ratio

Unit = Literal["us", "per_second", "bytes", "ratio"]


@dataclass(frozen=True, slots=True)
class Budget:
    """What a row's figure may be at most, or must be at least."""

    limit: float
    at_least: bool = False

    def holds(self, figure: float) -> bool:
        return figure >= self.limit if self.at_least else figure <= self.limit


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. ``figure`` is what the budget is about: a ratio, or bytes."""

    name: str
    against: str
    unit: Unit
    ours: float
    theirs: float | None
    figure: Spread
    budget: Budget | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.budget is None:
            return self.note
        return "within" if self.budget.holds(self.figure.median) else "over"


@dataclass(slots=True)
class Section:
    """Rows that are read together, and what their ratio means."""

    id: str
    title: str
    figure: str
    rows: list[Row] = field(default_factory=list)


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
