"""python -m bench.sglang: measure the plugin with the real SGLang, on one server, and print the results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec

from bench import report
from bench.ground import Ground
from bench.results import Section
from bench.running import Bench, Found, progress, run
from bench.services import free_ports
from bench.sglang import calls, consensus, processes, rounds
from redis_kvpoll import InvalidInputError

RANKS = 8
MARKERS = "<!-- bench.sglang: start -->", "<!-- bench.sglang: end -->"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    rounds: int
    lives: tuple[int, int]
    """Requests a round: one after the other, and paced."""
    published: int
    rooms: tuple[int, ...]
    """For the consensus, and for collect."""
    consensus_rounds: int
    changes: int
    loops: tuple[int, float]
    """Of the scheduler's loop: how many runs of each way, and their seconds."""


FULL = Sizes(51, (20, 40), published=100, rooms=(64, 1_000), consensus_rounds=15, changes=150, loops=(7, 4.0))
QUICK = Sizes(3, (5, 9), published=3, rooms=(64, 1_000), consensus_rounds=1, changes=3, loops=(1, 0.5))


def measure(ground: Ground, is_quick: bool) -> Found:
    if find_spec("sglang") is None:
        raise InvalidInputError("SGLang is not installed here: make bench-sglang")
    sizes = QUICK if is_quick else FULL
    more: report.Environment = {"SGLang": version("sglang"), "torch": version("torch")}
    with processes.own_agents():
        return _sections(ground, sizes), asdict(sizes), more


def _sections(ground: Ground, sizes: Sizes) -> list[Section]:
    context = processes.context()
    progress("importing SGLang")
    environment = _environment(ground, "one")
    jobs: list[processes.Job] = [{"environment": environment}]
    with processes.started(context, processes.SENDER, jobs) as (worker,):
        progress("sender.poll(), and a request's life")
        sections = calls.measure(worker, sizes.rounds, sizes.lives)
        progress("until the table has it")
        namespace = f"{environment['KVPOLL_NAMESPACE']}-prefill"
        sections.append(calls.publishing(ground, worker, namespace, sizes.published))
    progress("a scheduler's loop beside requests")
    loop: list[processes.Job] = [{"environment": _environment(ground, "loop")}]
    with (
        processes.started(context, processes.SCHEDULER, loop) as (worker,),
        processes.on_its_own_cpu(worker, ground.server),
    ):
        sections += rounds.measure(worker, *sizes.loops)
    progress(f"{RANKS} ranks in {RANKS} processes: starting them")
    ports, environment = free_ports(2), _environment(ground, "many")
    jobs = [{"rank": rank, "ranks": RANKS, "ports": ports, "environment": environment} for rank in range(RANKS)]
    with processes.started(context, processes.RANK, jobs) as workers:
        progress("their consensus")
        sections += consensus.measure(ground, workers, sizes.rooms, sizes.consensus_rounds, sizes.changes)
    return sections


def _environment(ground: Ground, table: str) -> dict[str, str]:
    """Return the plugin's settings. The lease is longer than its default: many processes share few CPUs here."""
    return {"KVPOLL_URL": ground.url, "KVPOLL_NAMESPACE": f"{ground.id}.{table}", "KVPOLL_LEASE": "30"}


BENCH = Bench("python -m bench.sglang", "What the plugin costs SGLang, beside its own dicts.", measure, MARKERS)


def main(arguments: Sequence[str] | None = None) -> int:
    return run(BENCH, arguments)


if __name__ == "__main__":
    sys.exit(main())
