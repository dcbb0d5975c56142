"""Timing: contenders take turns within one run, so that what slows the machine slows all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of doing something."""

    name: str
    run: Callable[[], object]
    """What is timed: ``units`` calls, or one call for that many rooms."""
    units: int
    prepare: Callable[[], object] = _nothing
    """Brings the table to where ``run`` starts. Not timed."""

    def seconds(self) -> float:
        """How long ``run`` takes."""
        start = perf_counter()
        self.run()
        return perf_counter() - start


@dataclass(frozen=True, slots=True)
class Told(Contender):
    """One whose ``run`` says itself how many seconds it took: others have done it, each in a process of its own."""

    def seconds(self) -> float:
        taken = self.run()
        assert isinstance(taken, float)  # noqa: S101 - what such a contender's run is for
        return taken


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over all rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        return cls(statistics.median(figures), min(figures), max(figures))


Times = dict[str, list[float]]
"""Seconds a unit, of each contender in each round."""


def interleave(contenders: Sequence[Contender], rounds: int) -> Times:
    """Time all contenders once a round. Each round starts with another one, so that none always follows the same."""
    times: Times = {contender.name: [] for contender in contenders}
    for number in range(-1, rounds):  # the first is to warm up
        first = number % len(contenders)
        for contender in [*contenders[first:], *contenders[:first]]:
            contender.prepare()
            seconds = contender.seconds()
            if number >= 0:
                times[contender.name].append(seconds / contender.units)
    return times


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """above / below, round by round: a round's two times saw the same machine."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])
