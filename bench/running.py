"""What all benchmarks share: the command line, the run, and the output of its results."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError
from rich.console import Console

from bench import report
from bench.ground import Ground, environment, opened
from bench.results import Section
from redis_kvpoll import InvalidInputError, KVPollError

Found = tuple[list[Section], dict[str, Any], report.Environment]
"""The sections of a run, its sizes, and further facts that the figures depend on."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A benchmark, and the markers of its tables on a page."""

    program: str
    description: str
    measure: Callable[[Ground, bool], Found]
    """Measure on a server, perhaps quickly."""
    markers: report.Markers
    parts: Mapping[str, Callable[[Ground, bool], Found]] = field(default_factory=dict)
    """What can be measured alone, by name."""


def run(bench: Bench, arguments: Sequence[str] | None) -> int:
    """Measure and print the results; returns the exit status."""
    options = _parse(bench, arguments)
    # Into a pipe or a file, the width that the tables need.
    console = Console(width=None if sys.stdout.isatty() else 120)
    started = time.monotonic()
    try:
        if options.one_cpu:
            if not hasattr(os, "sched_setaffinity"):
                raise InvalidInputError("--one-cpu: this system does not let a process choose its CPU")
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        if options.markdown:
            report.check_markers(options.markdown, bench.markers)
        for path in filter(None, (options.json, options.markdown)):
            path.open("a").close()  # refused before minutes of measuring, not after
        with opened(options.url) as ground:
            facts = environment(ground, options.url)
            measure = bench.parts[options.only] if options.only else bench.measure
            sections, sizes, more = measure(ground, options.quick)
        facts |= more
        report.show(console, sections, facts)
        if options.json:
            found = report.as_json(sections, facts, sizes, time.monotonic() - started)
            options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        if options.markdown:
            report.write_page(options.markdown, sections, facts, bench.markers)
    except (KVPollError, RedisError, OSError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(f"It took {time.monotonic() - started:.0f} s.", style="dim", highlight=False)
    return 0


def _parse(bench: Bench, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=bench.program, description=bench.description)
    parser.add_argument(
        "--url",
        default="",
        help="one real server (default: a private one on loopback; embedded:// is one on a unix socket)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="take a few seconds, to check that it runs; the figures are rough"
    )
    parser.add_argument(
        "--one-cpu",
        action="store_true",
        help="run client and private server on one CPU: steadier, since no call wakes another CPU",
    )
    if bench.parts:
        parser.add_argument("--only", choices=bench.parts, help="measure only this; not for a page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results to this file")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also update the tables of this page, and the pictures beside it"
    )
    parser.set_defaults(only=None)
    options = parser.parse_args(arguments)
    if options.only and options.markdown:
        parser.error("--only and --markdown: a page has the tables of a whole run")
    return options


def progress(text: str) -> None:
    """Print progress to stderr, apart from the results."""
    sys.stderr.write(f"... {text}\n")
