"""Timing: contenders take turns within one run, so that a slow phase of the machine slows all of them."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Contender:
    """One of the things to compare."""

    name: str
    run: Callable[[], object]
    """The timed function: ``units`` calls, or one call for that many rooms."""
    units: int
    prepare: Callable[[], object] = _nothing
    """Prepares the table for ``run``; not timed."""

    def seconds(self) -> float:
        """The duration of ``run``."""
        start = perf_counter()
        self.run()
        return perf_counter() - start


@dataclass(frozen=True, slots=True)
class SelfTimed(Contender):
    """A contender whose ``run`` returns its own duration in seconds, measured in other processes."""

    def seconds(self) -> float:
        taken = self.run()
        assert isinstance(taken, float)  # noqa: S101 - such a contender's run returns it
        return taken


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over all rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        return cls(statistics.median(figures), min(figures), max(figures))


Times = dict[str, list[float]]
"""Seconds per unit, of each contender in each round."""


def interleave(contenders: Sequence[Contender], rounds: int) -> Times:
    """Time all contenders once per round. Each round starts with another one, so that their order changes."""
    times: Times = {contender.name: [] for contender in contenders}
    for number in range(-1, rounds):  # the first round warms up
        first = number % len(contenders)
        for contender in [*contenders[first:], *contenders[:first]]:
            contender.prepare()
            seconds = contender.seconds()
            if number >= 0:
                times[contender.name].append(seconds / contender.units)
    return times


Calls = Mapping[str, Sequence[Callable[[], object]]]
"""The calls of each contender: as many of each."""
AsyncCalls = Mapping[str, Sequence[Callable[[], Awaitable[object]]]]


def alternate(calls: Calls, rounds: int, prepare: Callable[[], object] = _nothing) -> Times:
    """Time the first call of each contender, then the second of each, and so on, in every round."""
    times: Times = {name: [] for name in calls}
    for number in range(-1, rounds):  # the first round warms up
        prepare()
        for each in zip(*calls.values(), strict=True):
            for name, call in zip(calls, each, strict=True):
                start = perf_counter()
                call()
                seconds = perf_counter() - start
                if number >= 0:
                    times[name].append(seconds)
    return times


async def alternate_async(calls: AsyncCalls, rounds: int, prepare: Callable[[], Awaitable[object]]) -> Times:
    """As ``alternate``, for asyncio."""
    times: Times = {name: [] for name in calls}
    for number in range(-1, rounds):
        await prepare()
        for each in zip(*calls.values(), strict=True):
            for name, call in zip(calls, each, strict=True):
                start = perf_counter()
                await call()
                seconds = perf_counter() - start
                if number >= 0:
                    times[name].append(seconds)
    return times


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """above / below, round by round: the two times of a round are of the same phase of the machine."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])
