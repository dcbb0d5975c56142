"""python -m bench: measure everything on one server, and print it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench import batches, feed, memory, mirrors, recovery, report, scale, single, together
from bench.ground import Ground
from bench.peers import contest, known, rates, reading
from bench.results import Section
from bench.running import Bench, Found, run, say


@dataclass(frozen=True, slots=True)
class PeerSizes:
    """How much is measured of what people use instead."""

    processes: tuple[int, ...]
    seconds: float
    turns: int
    changes: int
    mirrors: tuple[int, ...]
    mirror_changes: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    rooms: int
    """For one call at a time; six calls each. Few, so that a round is a few milliseconds and the machine the same."""
    call_rounds: int
    rounds: int
    peers: PeerSizes
    together: int
    together_rounds: int
    feed_entries: int
    memory_rooms: int
    recovery: tuple[int, int, int]
    """Owners, rooms of each, and how many times."""
    scale: tuple[int, ...]


FULL = Sizes(
    rooms=16,
    call_rounds=151,
    rounds=31,
    peers=PeerSizes(processes=(4, 1, 8), seconds=1.5, turns=3, changes=300, mirrors=(1, 8, 32), mirror_changes=300),
    together=2_000,
    together_rounds=9,
    feed_entries=feed.FULL,
    memory_rooms=100_000,
    recovery=(4, 10_000, 3),
    scale=(1_000, 10_000, 100_000, 1_000_000),
)
QUICK = Sizes(
    rooms=8,
    call_rounds=5,
    rounds=3,
    peers=PeerSizes(processes=(4,), seconds=0.1, turns=1, changes=4, mirrors=(1, 2), mirror_changes=10),
    together=200,
    together_rounds=1,
    feed_entries=5_000,
    memory_rooms=2_000,
    recovery=(2, 200, 1),
    scale=(),
)


def main(arguments: Sequence[str] | None = None) -> int:
    return run(BENCH, arguments)


def measure(ground: Ground, is_quick: bool) -> Found:
    sizes = QUICK if is_quick else FULL
    return _sections(ground, sizes), asdict(sizes), {}


def _sections(ground: Ground, sizes: Sizes) -> list[Section]:
    """All sections, one after the other on the same server; the largest last, so that it is beside none."""
    say("one call at a time")
    sections = single.measure(ground, sizes.rooms, sizes.call_rounds)
    say("batches")
    sections += batches.measure(ground, sizes.rounds)
    sections += _peers(ground, sizes)
    say("many calls at once")
    sections.append(together.measure(ground, sizes.together, sizes.together_rounds))
    say("the change feed")
    sections.append(feed.measure(ground, sizes.rooms, sizes.call_rounds, sizes.rounds))
    sections.append(feed.memory(ground, sizes.feed_entries))
    say("memory")
    sections.append(memory.measure(ground, sizes.memory_rooms))
    say("a server that is killed with all data")
    sections.append(recovery.measure(*sizes.recovery))
    if sizes.scale:
        sections.append(scale.measure(ground, sizes.scale, sizes.rounds, say))
    return sections


def _peers(ground: Ground, sizes: Sizes) -> list[Section]:
    asked = sizes.peers
    say("what people use instead: starting it")
    with contest.opened(ground, only=("zmq",) if sizes is QUICK else None) as opened_contest:
        say(f"{', '.join(map(str, asked.processes))} processes at once")
        sections = rates.measure(opened_contest, asked.processes, asked.seconds, asked.turns)
        say("reading 1,000 statuses")
        sections.append(reading.measure(opened_contest, sizes.rounds))
        say("from a change to knowing it")
        sections += known.measure(opened_contest, asked.changes, asked.turns)
        say("mirrors")
        sections.append(mirrors.read(ground, sizes.rounds))
        sections += mirrors.many(opened_contest, asked.mirrors, asked.mirror_changes, asked.turns)
    return sections


BENCH = Bench("python -m bench", "What the table costs, beside plain Redis.", measure, report.MARKERS)

if __name__ == "__main__":
    sys.exit(main())
