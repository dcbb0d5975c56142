"""Processes merge statuses into the same 64 rooms, each way in turn.

A way is correct if its callers' answers add up: every created room was either cleared or still exists. A merge that
is lost or done twice (two callers that both created the room; a clear that an older merge overwrote) breaks that sum.
In the end, all processes must see the same table.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier, Lock
from random import Random
from typing import Any

from bench.measure import Spread
from bench.peers.contest import MIRROR, OURS, WAYS, Contest
from bench.peers.way import Shared
from bench.results import Row, Section

ROOMS = 64
_START_SECONDS = 60.0
_RATED = {name: way for name, way in WAYS.items() if name != MIRROR}
"""A mirror does not write."""


@dataclass(frozen=True, slots=True)
class TurnCounts:
    """What one process did in one turn, and the table it saw at the end."""

    calls: int
    created: int
    cleared: int
    seconds: float
    left: list[int | None]


@dataclass(slots=True)
class Score:
    """The results of one way over all turns."""

    rates: list[float] = field(default_factory=list)
    wrong: int = 0
    apart: int = 0

    def add(self, counts: Sequence[TurnCounts]) -> None:
        left = sum(status is not None for status in counts[0].left)
        self.wrong += abs(sum(t.created - t.cleared for t in counts) - left)
        self.apart += sum(len(set(seen)) > 1 for seen in zip(*(t.left for t in counts), strict=True))
        self.rates.append(sum(t.calls / t.seconds for t in counts))

    @property
    def result(self) -> str:
        found = [f"{self.wrong:,} wrong"] if self.wrong else []
        if self.apart:
            found.append(f"{self.apart:,} rooms differ")
        return ", ".join(found) or "correct"


def measure(contest: Contest, counts: Sequence[int], seconds: float, turns: int) -> list[Section]:
    """A section per number of processes; each way gets ``seconds`` in each, in several turns."""
    barriers = {count: contest.context.Barrier(count) for count in counts}
    sections: list[Section] = []
    with ProcessPoolExecutor(
        max(counts), contest.context, initializer=_join, initargs=(barriers, contest.lock)
    ) as workers:
        for count in counts:
            scores = {name: Score() for name in _RATED if contest.is_available(name)}
            for _ in range(turns):
                for name, score in scores.items():
                    if not contest.is_available(name):
                        continue
                    rooms = contest.ground.ids(ROOMS)
                    jobs = [(name, shared, rooms, seconds / turns) for shared in contest.turn(name, "rate", count)]
                    barriers[count].reset()
                    with contest.may_fail(name):
                        score.add(list(workers.map(_turn, jobs, timeout=_START_SECONDS + seconds)))
            sections.append(_section(contest, count, scores, lacking=not sections))
    return sections


def _section(contest: Contest, count: int, scores: dict[str, Score], lacking: bool) -> Section:
    title = "One process merges and clears" if count == 1 else f"{count} processes merge and clear"
    section = Section(f"peers_{count}", f"{title} the same {ROOMS} rooms", "times faster", pictured="theirs")
    ours = scores[OURS]
    for name, way in _RATED.items():
        lacks = way.lacks if lacking else ""
        if not contest.is_available(name):
            row = Row(way.shown, "", "per_second", None, None, None, note=contest.missing[name], lacks=lacks)
        else:
            score = scores[name]
            faster = Spread.of([a / b for a, b in zip(ours.rates, score.rates, strict=True)])
            rates = Spread.of(ours.rates).median, Spread.of(score.rates).median
            row = Row(way.shown, "", "per_second", *rates, faster, note=score.result, lacks=lacks)
        section.rows.append(row)
    return section


# In the worker processes

_shared: list[Any] = []
"""The barriers and the lock, which only a starting process can receive."""


def _join(barriers: dict[int, Barrier], lock: Lock) -> None:
    _shared[:] = barriers, lock


def _turn(job: tuple[str, Shared, list[int], float]) -> TurnCounts:
    """Run one process's turn: the same calls for every way, from its own list."""
    name, shared, rooms, seconds = job
    barriers, lock = _shared
    barrier: Barrier = barriers[shared.processes]
    try:
        return _play(name, shared._replace(lock=lock), rooms, seconds, barrier)
    except Exception:
        barrier.abort()  # no other process must wait for this one
        raise


def _play(name: str, shared: Shared, rooms: list[int], seconds: float, barrier: Barrier) -> TurnCounts:
    way = WAYS[name](shared)
    calls = _calls(rooms, shared.number)
    way.read(rooms)  # connect before the start
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
    way.settle()
    barrier.wait(_START_SECONDS)
    left = way.read(rooms)
    way.close()
    return TurnCounts(done, created, cleared, now - start, left)


def _calls(rooms: list[int], number: int) -> list[tuple[int, int | None]]:
    """(room, status or None for a clear) in any order, as from independent ranks and requests."""
    random = Random(number)  # noqa: S311 - traffic, the same in every run
    statuses = (1, 1, 2, 2, 3, 3, 3, 4, 0, None)
    return [(random.choice(rooms), random.choice(statuses)) for _ in range(10_000)]
