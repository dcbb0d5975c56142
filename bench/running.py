"""One run of a benchmark, from the command line to its tables: what all of them have in common."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError
from rich.console import Console

from bench import report
from bench.ground import Ground, environment, opened
from bench.results import Section
from redis_kvpoll import InvalidInputError, KVPollError

Found = tuple[list[Section], dict[str, Any], report.Environment]
"""The sections of a run, how much was measured, and what else the figures depend on."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured, and where on a page it stands."""

    program: str
    description: str
    measure: Callable[[Ground, bool], Found]
    """On a server; and whether quickly."""
    markers: report.Markers


def run(bench: Bench, arguments: Sequence[str] | None) -> int:
    """Measure, and print it; the program's exit code."""
    asked = _asked(bench, arguments)
    # Results are wide; where no terminal says how wide it is, they get what they need.
    console = Console(width=None if sys.stdout.isatty() else 120)
    started = time.monotonic()
    try:
        if asked.one_cpu:
            if not hasattr(os, "sched_setaffinity"):
                raise InvalidInputError("--one-cpu: this system does not let a process choose its CPU")
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        if asked.markdown:
            report.check_markers(asked.markdown, bench.markers)
        with opened(asked.url) as ground:
            facts = environment(ground, asked.url)
            sections, sizes, more = bench.measure(ground, asked.quick)
        facts |= more
        if asked.json:
            found = report.as_json(sections, facts, sizes, time.monotonic() - started)
            asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        if asked.markdown:
            report.write_page(asked.markdown, sections, facts, bench.markers)
    except (KVPollError, RedisError, OSError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    report.show(console, sections, facts)
    console.print(f"It took {time.monotonic() - started:.0f} s.", style="dim", highlight=False)
    return 0


def _asked(bench: Bench, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=bench.program, description=bench.description)
    parser.add_argument(
        "--url",
        default="",
        help="one real server (default: a private one on loopback; embedded:// is one on a unix socket)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds, to see that it runs; its figures are rough"
    )
    parser.add_argument(
        "--one-cpu",
        action="store_true",
        help="keep client and private server on one CPU: steadier, since no call has to wake another",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there too")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="refresh the tables of this page too, and the pictures beside it"
    )
    return parser.parse_args(arguments)


def say(what: str) -> None:
    """Progress, apart from the results."""
    sys.stderr.write(f"... {what}\n")
