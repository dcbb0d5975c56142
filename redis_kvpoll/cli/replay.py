"""kvpoll replay: traffic by real processes over one table, and what became of it."""

from __future__ import annotations

import json
import math
import secrets
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from redis_kvpoll.cli.progress import Progress
from redis_kvpoll.cli.report import as_json, render
from redis_kvpoll.errors import printable
from redis_kvpoll.replay import runner, traffic
from redis_kvpoll.replay.fault_plan import Rates
from redis_kvpoll.replay.report import Report
from redis_kvpoll.replay.router import Run, Snapshot
from redis_kvpoll.transport.urls import parse
from redis_kvpoll.validation import Policy

PROMISE_BROKEN = 3
GENERATED = 1000


class Finite(click.FloatRange):
    """A range without NaN, which is neither below nor above any bound, and without infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


_rate = Finite(0, 1)
_workers = click.IntRange(1, 64)


@click.command(short_help="Try a table out under traffic by real processes.")
@click.option("--trace", type=click.Path(path_type=Path), help="JSON lines with timestamp (ms), input_length and "
              "output_length; without it, traffic is generated.")  # fmt: skip
# Not from KVPOLL_URL: who has that set for looking at production must not put load on it by forgetting.
@click.option("--redis", "url", metavar="URL", help="The server; without it, a private one is started and ended.")
@click.option("--prefill", type=_workers, default=2, show_default=True, help="Prefill worker processes.")
@click.option("--decode", type=_workers, default=2, show_default=True, help="Decode worker processes.")
@click.option("--speed", type=Finite(0, min_open=True), default=20.0, show_default=True,
              help="How many times faster than the trace.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help=f"Requests at most; {GENERATED:,} when generated.")
@click.option("--fenced/--plain", default=True, show_default=True,
              help="Through generations, under leases; or by room alone, as SGLang does.")  # fmt: skip
@click.option("--kill-redis", type=click.IntRange(min=0), default=0, metavar="N",
              help="Kill the private server N times with SIGKILL; it comes back empty.")  # fmt: skip
@click.option("--policy", type=click.Choice(["compat", "strict"]), default="strict", show_default=True,
              help="How late messages are merged.")  # fmt: skip
@click.option("--abort-rate", type=_rate, default=0.03, show_default=True, help="Requests aborted, from either side.")
@click.option("--late-rate", type=_rate, default=0.05, show_default=True,
              help="Requests with a message that arrives after the clear.")  # fmt: skip
@click.option("--reuse-rate", type=_rate, default=0.05, show_default=True,
              help="Requests that get the room of one before them.")  # fmt: skip
@click.option("--crash-rate", type=_rate, default=0.002, show_default=True,
              help="Requests during which a worker is killed with SIGKILL.")  # fmt: skip
@click.option("--seed", type=int, help="Repeats the traffic and the hazards of a run; random by default.")
@click.option("--json", "wants_json", is_flag=True, help="Print the report as JSON.")
def replay(
    trace: Path | None,
    url: str | None,
    prefill: int,
    decode: int,
    speed: float,
    limit: int | None,
    fenced: bool,
    kill_redis: int,
    policy: Policy,
    abort_rate: float,
    late_rate: float,
    reuse_rate: float,
    crash_rate: float,
    seed: int | None,
    wants_json: bool,
) -> None:
    """Replay prefill/decode traffic by real processes over one shared table.

    A router gives each request a room; prefill and decode workers run SGLang's handshake over two tables; aborts,
    late messages, reused rooms and killed workers happen at the given rates. The report says what became of every
    request and every room. Exit status 3: something happened that the policy promises not to have.
    """
    seed = secrets.randbelow(2**31) if seed is None else seed
    requests = traffic.read_trace(trace, limit) if trace else traffic.generate(limit or GENERATED, seed)
    rates = Rates(abort_rate, late_rate, reuse_rate, crash_rate)
    # The report goes to stdout; everything on the way to it to stderr.
    console = Console(stderr=True, highlight=False)
    with runner.server(url) as (server, private):
        if kill_redis and (private is None or not fenced):
            raise click.UsageError("--kill-redis needs the private server (no --redis), and --fenced to survive it")
        plan = runner.plan(server, policy, speed, fenced)
        killer = runner.Killer(private, kill_redis, len(requests)) if private else None
        source = trace.name if trace else "generated traffic"
        # Out of a checkout's .venv, by make demo say, the command is on no PATH.
        program = "kvpoll" if shutil.which("kvpoll") or not sys.argv[0].endswith("kvpoll") else shlex.quote(sys.argv[0])
        manner = "fenced" if fenced else f"plain, policy {policy}"
        # No markup: an IPv6 address looks like it. No password: this goes into logs.
        for line in (
            f"kvpoll replay: {len(requests):,} requests of {printable(source)}, {manner}, seed {seed}",
            "Look at it from another shell, while it runs:",
            f"  {program} ls --redis {parse(server).shown} --namespace {plan.namespace}-decode",
            f"  {program} tail --redis {parse(server).shown} --namespace {plan.namespace}-decode",
        ):
            console.print(line, soft_wrap=True, markup=False)
        with Progress(console, len(requests)) as progress:

            def show(snapshot: Snapshot) -> None:
                progress.show(snapshot)
                if killer:
                    killer.look(snapshot)

            report = runner.replay(Run(plan, requests, rates, prefill, decode, seed), show)
    report.server_kills = killer.killed if killer else 0
    _print(report, wants_json)
    if report.violations():
        sys.exit(PROMISE_BROKEN)


def _print(report: Report, wants_json: bool) -> None:
    if wants_json:
        click.echo(json.dumps(as_json(report), indent=2))
    else:
        # Into a file or a pipe: as wide as the widest table, rather than rich's 80 columns.
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
        for part in render(report):
            console.print(part)
