"""``python -m chaos``: run all scenarios, one after the other."""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from collections.abc import Sequence

from chaos.report import report
from chaos.run import RunResult, run
from chaos.scenarios import SCENARIOS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen scenarios; returns 1 if any rule was violated."""
    options = _parse(arguments)
    seed = random.randrange(10**6) if options.seed is None else options.seed  # noqa: S311 - chance, not secrets
    progress(f"seed {seed}")
    results: list[RunResult] = []
    for turn, name in itertools.product(range(options.repeat), options.only or SCENARIOS):
        scenario = SCENARIOS[name]
        if not scenario.needs():
            progress(f"{name} is skipped: {scenario.missing}")
            continue
        seconds = options.seconds or (scenario.long_seconds if options.long else scenario.seconds)
        progress(f"{name}, {seconds:g} s" + (f", seed {seed + turn}" if turn else ""))
        results.append(run(name, scenario, seconds, seed + turn))
    sys.stdout.write(report(results) + "\n")
    return 1 if any(result.violations for result in results) else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description="Fault injection on real servers.")
    parser.add_argument("--long", action="store_true", help="a minute or more per scenario, instead of a few seconds")
    parser.add_argument("--seconds", type=float, help="duration of every scenario")
    parser.add_argument("--seed", type=int, help="choose the faults and calls; their timing still varies")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run all N times, each with the next seed")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="NAME", help=", ".join(SCENARIOS))
    return parser.parse_args(arguments)


def progress(text: str) -> None:
    """Print progress to stderr, apart from the results."""
    sys.stderr.write(f"... {text}\n")


if __name__ == "__main__":
    sys.exit(main())
