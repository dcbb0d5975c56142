"""What people write instead: 4 processes merge statuses into the same 64 rooms, each way in turn.

A way is right when what its callers were told fits together: every room that was created was either cleared or is
still there. A merge that was lost or done twice (two callers both told that they created the room; a clear
overwritten by a merge that had read before it) breaks that sum.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.managers import DictProxy
from multiprocessing.synchronize import Barrier, Lock
from random import Random
from typing import Any

from bench.ground import Ground
from bench.measure import Spread
from bench.results import Row, Section
from bench.ways import WAYS, Shared, Way

PROCESSES = 4
ROOMS = 64
_START_SECONDS = 60.0
_OURS = "ours"


@dataclass(frozen=True, slots=True)
class Tally:
    """What one process did in one turn."""

    calls: int
    created: int
    cleared: int
    seconds: float


@dataclass(slots=True)
class Score:
    """All turns of one way."""

    rates: list[float] = field(default_factory=list)
    wrong: int = 0


def measure(ground: Ground, seconds: float, turns: int) -> Section:
    """``seconds`` for each way, in several turns."""
    title = f"{PROCESSES} processes merge and clear the same {ROOMS} rooms"
    section = Section("peers", title, "times faster")
    context = get_context("spawn")
    barrier, lock = context.Barrier(PROCESSES), context.Lock()
    scores = {name: Score() for name in WAYS}
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(PROCESSES, context, initializer=_join, initargs=(barrier, lock)) as workers,
    ):
        shared = manager.dict()
        for _ in range(turns):
            for name, score in scores.items():
                rooms = ground.ids(ROOMS)
                jobs = [(ground.url, ground.id, name, shared, rooms, seconds / turns, n) for n in range(PROCESSES)]
                tallies = list(workers.map(_turn, jobs, timeout=_START_SECONDS + seconds))
                left = len(_way(ground.url, ground.id, name, shared, lock).left(rooms))
                score.wrong += abs(sum(t.created - t.cleared for t in tallies) - left)
                score.rates.append(sum(t.calls / t.seconds for t in tallies))
    section.rows = [_row(name, scores[name], scores[_OURS]) for name in WAYS]
    return section


def _row(name: str, score: Score, ours: Score) -> Row:
    faster = Spread.of([a / b for a, b in zip(ours.rates, score.rates, strict=True)])
    note = "correct" if not score.wrong else f"{score.wrong:,} wrong"
    rates = Spread.of(ours.rates).median, Spread.of(score.rates).median
    return Row(WAYS[name].shown, "", "per_second", *rates, faster, note=note)


# In the worker processes

_met: list[Any] = []
"""The barrier and the lock, which only a starting process can be given."""


def _join(barrier: Barrier, lock: Lock) -> None:
    _met[:] = barrier, lock


def _way(url: str, namespace: str, name: str, shared: DictProxy[int, int], lock: Lock) -> Way:
    return WAYS[name](Shared(url, f"{namespace}.{name}", shared, lock))


def _turn(job: tuple[str, str, str, DictProxy[int, int], list[int], float, int]) -> Tally:
    """One process: the same calls for every way, from its own list."""
    url, namespace, name, shared, rooms, seconds, number = job
    barrier, lock = _met
    way = _way(url, namespace, name, shared, lock)
    calls = _calls(rooms, number)
    way.left(rooms)  # connect before the start
    created = cleared = done = 0
    barrier.wait(_START_SECONDS)
    start = time.perf_counter()
    end = start + seconds
    while (now := time.perf_counter()) < end:
        room, status = calls[done % len(calls)]
        if status is None:
            cleared += way.clear(room)
        else:
            created += way.merge(room, status)
        done += 1
    way.close()
    return Tally(done, created, cleared, now - start)


def _calls(rooms: list[int], number: int) -> list[tuple[int, int | None]]:
    """(room, status or None for a clear): any order, as from ranks and requests that know nothing of each other."""
    random = Random(number)  # noqa: S311 - traffic, the same in every run
    statuses = (1, 1, 2, 2, 3, 3, 3, 4, 0, None)
    return [(random.choice(rooms), random.choice(statuses)) for _ in range(10_000)]
