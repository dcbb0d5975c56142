"""``python -m bench``: measure everything on one server, and print the results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench import (
    batches,
    feed,
    followers,
    instructions,
    leases,
    many_ranks,
    memory,
    mirrors,
    operate,
    ranks,
    recovery,
    report,
    single,
    table_sizes,
    together,
)
from bench.ground import Ground
from bench.operate import OperateSizes
from bench.peers import contest, known, rates, reading
from bench.results import Section
from bench.running import Bench, Found, progress, run
from redis_kvpoll import InvalidInputError


@dataclass(frozen=True, slots=True)
class PeerSizes:
    """How much is measured of the alternatives."""

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
    """For one call at a time; six calls each. Few, so that a round takes only milliseconds."""
    call_rounds: int
    rounds: int
    peers: PeerSizes
    together: int
    together_rounds: int
    feed_entries: int
    many_ranks: tuple[tuple[int, ...], int]
    """Ranks of a room, and how often the calls for such rooms are timed."""
    memory_rooms: int
    recovery: tuple[int, int, int]
    """Owners, rooms of each, and repetitions."""
    owners: int
    """With a lease each; 0 to leave them out."""
    followers: followers.Sizes | None
    table_sizes: tuple[int, ...]
    operate: OperateSizes


FULL = Sizes(
    rooms=16,
    call_rounds=151,
    rounds=31,
    peers=PeerSizes(processes=(4, 1, 8), seconds=1.5, turns=3, changes=300, mirrors=(1, 8, 32), mirror_changes=300),
    together=2_000,
    together_rounds=9,
    feed_entries=feed.FULL,
    many_ranks=((8, 64, 256, 1_024), 5),
    memory_rooms=100_000,
    recovery=(4, 10_000, 3),
    owners=1_000,
    followers=followers.FULL,
    table_sizes=(1_000, 10_000, 100_000, 1_000_000),
    operate=OperateSizes(listed=100_000, followed=1_000_000, changes=10_000, viewed_seconds=20),
)
QUICK = Sizes(
    rooms=8,
    call_rounds=5,
    rounds=3,
    peers=PeerSizes(processes=(4,), seconds=0.1, turns=1, changes=4, mirrors=(1, 2), mirror_changes=10),
    together=200,
    together_rounds=1,
    feed_entries=5_000,
    many_ranks=((8,), 1),
    memory_rooms=2_000,
    recovery=(2, 200, 1),
    owners=0,
    followers=None,
    table_sizes=(),
    operate=OperateSizes(listed=2_000, followed=5_000, changes=200, viewed_seconds=1),
)


def main(arguments: Sequence[str] | None = None) -> int:
    return run(BENCH, arguments)


def measure(ground: Ground, is_quick: bool) -> Found:
    sizes = QUICK if is_quick else FULL
    return _sections(ground, sizes), asdict(sizes), _counted()


def measure_single(ground: Ground, is_quick: bool) -> Found:
    sizes = QUICK if is_quick else FULL
    return single.measure(ground, sizes.rooms, sizes.call_rounds), {"rooms": sizes.rooms}, {}


def measure_recovery(ground: Ground, is_quick: bool) -> Found:
    sizes = (QUICK if is_quick else FULL).recovery
    return recovery.measure(*sizes), {"recovery": sizes}, {}


def measure_leases(ground: Ground, is_quick: bool) -> Found:
    owners = 50 if is_quick else FULL.owners
    return [leases.measure(ground, owners)], {"owners": owners}, {}


def measure_ranks(ground: Ground, is_quick: bool) -> Found:
    sizes = QUICK if is_quick else FULL
    sections = [ranks.measure(ground), many_ranks.writes(ground), *_many_ranks(ground, sizes)]
    return sections, {"many_ranks": sizes.many_ranks}, _counted()


def measure_scale(ground: Ground, is_quick: bool) -> Found:
    if ground.url.startswith("rediss:"):
        raise InvalidInputError("--only scale: the simulated followers know no TLS; use a server without it")
    sizes = followers.QUICK if is_quick else followers.FULL
    return followers.measure(ground, sizes, progress), asdict(sizes), _counted()


def _counted() -> report.Environment:
    return {"instructions": instructions.way()}


def measure_operate(ground: Ground, is_quick: bool) -> Found:
    sizes = (QUICK if is_quick else FULL).operate
    return [operate.measure(ground, sizes)], asdict(sizes), {}


def _sections(ground: Ground, sizes: Sizes) -> list[Section]:
    """All sections, one after the other on the same server; the largest last, so that it disturbs no other."""
    progress("one call at a time")
    sections = single.measure(ground, sizes.rooms, sizes.call_rounds)
    progress("batches")
    sections += batches.measure(ground, sizes.rounds)
    sections += _peers(ground, sizes)
    progress("many calls at once")
    sections.append(together.measure(ground, sizes.together, sizes.together_rounds))
    progress("the change feed")
    sections.append(feed.measure(ground, sizes.rooms, sizes.call_rounds, sizes.rounds))
    sections.append(feed.memory(ground, sizes.feed_entries))
    progress("many ranks")
    sections += _many_ranks(ground, sizes)
    progress("memory")
    sections.append(memory.measure(ground, sizes.memory_rooms))
    if sizes.owners:
        progress("leases")
        sections.append(leases.measure(ground, sizes.owners))
        progress("requests of several ranks")
        sections += [ranks.measure(ground), many_ranks.writes(ground)]
        progress("looking at a large table")
        sections.append(operate.measure(ground, sizes.operate))
    progress("a server killed with all data")
    sections += recovery.measure(*sizes.recovery)
    if sizes.followers and not ground.url.startswith("rediss:"):
        sections += followers.measure(ground, sizes.followers, progress)
    if sizes.table_sizes:
        sections.append(table_sizes.measure(ground, sizes.table_sizes, sizes.rounds, progress))
    return sections


def _many_ranks(ground: Ground, sizes: Sizes) -> list[Section]:
    return [many_ranks.looks(ground, sizes.rounds), many_ranks.calls(*sizes.many_ranks)]


def _peers(ground: Ground, sizes: Sizes) -> list[Section]:
    peers = sizes.peers
    progress("the alternatives: starting them")
    with contest.opened(ground, only=("zmq",) if sizes is QUICK else None) as opened_contest:
        progress(f"{', '.join(map(str, peers.processes))} processes at once")
        sections = rates.measure(opened_contest, peers.processes, peers.seconds, peers.turns)
        progress("reading 1,000 statuses")
        sections.append(reading.measure(opened_contest, sizes.rounds))
        progress("from a change to another process")
        sections += known.measure(opened_contest, peers.changes, peers.turns)
        progress("mirrors")
        sections.append(mirrors.read(ground, sizes.rounds))
        sections += mirrors.many(opened_contest, peers.mirrors, peers.mirror_changes, peers.turns)
    return sections


BENCH = Bench(
    "python -m bench",
    "The cost of the table, compared with plain Redis and with alternatives.",
    measure,
    report.MARKERS,
    {
        "single": measure_single,
        "recovery": measure_recovery,
        "leases": measure_leases,
        "ranks": measure_ranks,
        "scale": measure_scale,
        "operate": measure_operate,
    },
)

if __name__ == "__main__":
    sys.exit(main())
