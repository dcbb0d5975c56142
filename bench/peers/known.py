"""The time from a change in one process until another process knows it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Lock
from random import Random

from bench.measure import Spread
from bench.peers.contest import MIRROR, OURS, WAYS, Contest
from bench.peers.way import GIVE_UP_SECONDS, Shared
from bench.results import Budget, Row, Section

MEDIAN_BUDGET, P99_BUDGET = Budget(1), Budget(5)
_SAME = ("lock", "watch")
"""They would poll as the unguarded way does."""


@dataclass(slots=True)
class Delays:
    """Milliseconds, by turn."""

    turns: list[list[float]] = field(default_factory=list)

    @property
    def medians(self) -> list[float]:
        return [Spread.of(turn).median for turn in self.turns]

    @property
    def all(self) -> list[float]:
        return [delay for turn in self.turns for delay in turn]


def p99(delays: Sequence[float]) -> float:
    """The delay that 99 of 100 do not exceed."""
    return sorted(delays)[math.ceil(len(delays) * 0.99) - 1]


def measure(contest: Contest, changes: int, turns: int) -> list[Section]:
    """Our ways with their budgets, and all ways compared."""
    shown = {name: way.shown for name, way in WAYS.items() if name not in _SAME} | {"naive": "GET (WATCH, lock)"}
    delays = {name: Delays() for name in shown if contest.is_available(name)}
    for _ in range(turns):
        for name, found in delays.items():
            if contest.is_available(name):
                with contest.may_fail(name):
                    found.turns.append(_turn(contest, name, changes // turns))
    section = Section(
        "peers_known",
        "From a change to another process knowing it",
        "times faster",
        ours="median",
        theirs="p99",
        pictured="ours",
    )
    for name, title in shown.items():
        if not contest.is_available(name):
            section.rows.append(Row(title, WAYS[name].learns, "ms", None, None, None, note=contest.missing[name]))
            continue
        mine = delays[name]
        faster = Spread.of([b / a for a, b in zip(delays[OURS].medians, mine.medians, strict=True)])
        median = Spread.of(mine.all).median
        section.rows.append(Row(title, WAYS[name].learns, "ms", median, p99(mine.all), faster))
    return [_woken(delays), section]


def _woken(delays: dict[str, Delays]) -> Section:
    section = Section("woken", "From a change to a wake-up in another process", "milliseconds")
    for name in (OURS, MIRROR):
        if name in delays:
            mine, how = delays[name], WAYS[name].learns
            section.rows.append(Row(f"{how}, median", "", "ms", None, None, Spread.of(mine.medians), MEDIAN_BUDGET))
            most = p99(mine.all)
            section.rows.append(Row(f"{how}, p99", "", "ms", None, None, Spread(most, most, most), P99_BUDGET))
    return section


def _turn(contest: Contest, name: str, changes: int) -> list[float]:
    """One process changes rooms; another waits for each change, whose room and status it knows in advance."""
    here, there = contest.turn(name, "known", 2)
    rooms = contest.ground.ids(changes)
    random = Random(changes)  # noqa: S311 - pauses
    ours, theirs = contest.context.Pipe()
    other = contest.context.Process(target=_wait, args=(name, there, contest.lock, rooms, theirs), daemon=True)
    way = WAYS[name](here._replace(lock=contest.lock))
    delays = []
    try:
        other.start()
        theirs.close()
        for room in rooms:
            way.merge(room, 1)
        _receive(ours)  # it listens
        for room in rooms:
            _receive(ours)  # it is about to wait
            time.sleep(
                random.uniform(0.001, 0.003)
            )  # so that it waits, and the change is not in step with polls each 1 ms
            start = time.monotonic()
            way.announce(room, 4)
            delays.append((_receive(ours) - start) * 1000)
        other.join(GIVE_UP_SECONDS)
    finally:
        other.kill()
        other.join()
        ours.close()
        way.close()
    return delays


def _receive(ours: Connection[None, float]) -> float:
    if not ours.poll(2 * GIVE_UP_SECONDS):
        raise TimeoutError("the other process sends nothing")
    return ours.recv()


def _wait(name: str, shared: Shared, lock: Lock, rooms: list[int], parent: Connection[float, None]) -> None:
    way = WAYS[name](shared._replace(lock=lock))
    way.read(rooms)
    way.listen(rooms)
    parent.send(0.0)
    for room in rooms:
        parent.send(0.0)
        way.until(room, 4)
        parent.send(time.monotonic())
    way.close()
