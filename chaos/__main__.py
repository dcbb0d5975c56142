"""``python -m chaos``: all scenarios, one after the other."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from chaos.report import report
from chaos.run import Verdict, run
from chaos.scenarios import SCENARIOS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 1 if anything was violated."""
    asked = _asked(arguments)
    seed = random.randrange(10**6) if asked.seed is None else asked.seed  # noqa: S311 - chance, not secrets
    say(f"seed {seed}")
    verdicts: list[Verdict] = []
    for name in asked.only or SCENARIOS:
        scenario = SCENARIOS[name]
        if not scenario.needs():
            say(f"{name} is left out: {scenario.missing}")
            continue
        seconds = asked.seconds or (scenario.long_seconds if asked.long else scenario.seconds)
        say(f"{name}, {seconds:g} s")
        verdicts.append(run(name, scenario, seconds, seed))
    sys.stdout.write(report(verdicts) + "\n")
    return 1 if any(one.violations for one in verdicts) else 0


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description="The table under violence, on real servers.")
    parser.add_argument("--long", action="store_true", help="a minute or more a scenario, instead of some seconds")
    parser.add_argument("--seconds", type=float, help="so long a scenario, whichever it is")
    parser.add_argument("--seed", type=int, help="which faults and calls are drawn; their timing is the machine's")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="NAME", help=", ".join(SCENARIOS))
    return parser.parse_args(arguments)


def say(what: str) -> None:
    """Progress, apart from the results."""
    sys.stderr.write(f"... {what}\n")


if __name__ == "__main__":
    sys.exit(main())
