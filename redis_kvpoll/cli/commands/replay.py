"""``kvpoll replay``: traffic by real processes over one table, and its results."""

from __future__ import annotations

import json
import math
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from redis_kvpoll.errors import printable
from redis_kvpoll.validation import Policy

if TYPE_CHECKING:
    from redis_kvpoll.replay.report import Report
    from redis_kvpoll.replay.router import ReplayProgress, Run
    from redis_kvpoll.replay.runner import ServerKiller

GUARANTEE_VIOLATED = 3
HOST_TOO_SLOW = 4
GENERATED = 1000


class HostTooSlow(click.ClickException):
    """The machine got too little done for a report."""

    exit_code = HOST_TOO_SLOW


class Finite(click.FloatRange):
    """A range of floats without NaN, which no bound excludes, and without infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


_rate = Finite(0, 1)
_workers = click.IntRange(1, 64)


@click.command(short_help="Replay traffic over a table, with faults.")
@click.option("--trace", type=click.Path(path_type=Path), help="JSON lines with timestamp (ms), input_length and "
              "output_length; by default traffic is generated.")  # fmt: skip
# Not from KVPOLL_URL: a shell that has it set to inspect production must not put load on it by accident.
@click.option("--redis", "url", metavar="URL", help="The server; by default a private one for this replay.")
@click.option("--prefill", type=_workers, default=2, show_default=True, help="Prefill worker processes.")
@click.option("--decode", type=_workers, default=2, show_default=True, help="Decode worker processes.")
@click.option("--speed", type=Finite(0, min_open=True), default=20.0, show_default=True,
              help="How many times as fast as the trace.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help=f"Maximum number of requests; {GENERATED:,} if generated.")
@click.option("--fenced/--plain", default=True, show_default=True,
              help="Write through generations, under leases; or by room id alone, as SGLang does.")  # fmt: skip
@click.option("--kill-redis", type=click.IntRange(min=0), default=0, metavar="N",
              help="Kill the private server N times with SIGKILL; it comes back empty.")  # fmt: skip
@click.option("--policy", type=click.Choice(["compat", "strict"]), default="strict", show_default=True,
              help="How late messages are merged.")  # fmt: skip
@click.option("--abort-rate", type=_rate, default=0.03, show_default=True, help="Requests aborted, from either side.")
@click.option("--late-rate", type=_rate, default=0.05, show_default=True,
              help="Requests with a message that arrives after the clear.")  # fmt: skip
@click.option("--reuse-rate", type=_rate, default=0.05, show_default=True,
              help="Requests that get the room of an earlier one.")  # fmt: skip
@click.option("--crash-rate", type=_rate, default=0.002, show_default=True,
              help="Requests during which a worker is killed with SIGKILL.")  # fmt: skip
@click.option("--seed", type=int, help="Repeat a run's traffic and faults; random by default.")
@click.option("--keep", is_flag=True,
              help="On a terminal: keep the table, under light traffic, until Enter is pressed.")  # fmt: skip
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
    keep: bool,
    wants_json: bool,
) -> None:
    """Replay prefill/decode traffic by real processes over one shared table.

    A router gives each request a room; prefill and decode workers run SGLang's handshake over two tables. Aborts, late
    messages, reused rooms and killed workers happen at the given rates. The report counts the results of all requests
    and rooms. On a busy machine the replay is slower than asked for, and says so. Exit status 3: a guarantee was
    violated; 4: the machine is too slow to tell.
    """
    from redis_kvpoll.replay import runner, traffic
    from redis_kvpoll.replay.fault_plan import FaultRates
    from redis_kvpoll.replay.router import Run

    seed = secrets.randbelow(2**31) if seed is None else seed
    requests = traffic.read_trace(trace, limit) if trace else traffic.generate(limit or GENERATED, seed)
    rates = FaultRates(abort_rate, late_rate, reuse_rate, crash_rate)
    with runner.server(url) as (server, private):
        if kill_redis and (private is None or not fenced):
            raise click.UsageError("--kill-redis needs the private server (no --redis), and --fenced to recover")
        plan = runner.plan(server, policy, speed, fenced)
        killer = runner.ServerKiller(private, kill_redis, len(requests)) if private else None
        run = Run(plan, requests, rates, prefill, decode, seed)
        report = _run(run, trace, killer)
        report.server_kills = killer.kills if killer else 0
        _print(report, wants_json)
        if not wants_json:
            _look(run, report, keep)
    if report.violations():
        sys.exit(GUARANTEE_VIOLATED)
    if report.timed_out_for_nothing:
        sys.exit(HOST_TOO_SLOW)


def _run(run: Run, trace: Path | None, killer: ServerKiller | None) -> Report:
    """Run the replay; its progress goes to stderr, since the report goes to stdout."""
    from rich.console import Console

    from redis_kvpoll.cli.progress import Progress
    from redis_kvpoll.replay import runner
    from redis_kvpoll.replay.pacing import HostTooSlowError

    console = Console(stderr=True, highlight=False)
    for line in _introduction(run, trace):
        console.print(line, soft_wrap=True, markup=False)  # an IPv6 address looks like markup
    with Progress(console, len(run.requests)) as progress:

        def show(snapshot: ReplayProgress) -> None:
            progress.show(snapshot)
            if killer:
                killer.update(snapshot)

        try:
            return runner.replay(run, show)
        except HostTooSlowError as error:
            raise HostTooSlow(str(error)) from None


def _introduction(run: Run, trace: Path | None) -> tuple[str, ...]:
    """What is replayed, and how to watch it."""
    from redis_kvpoll.cli import look

    plan = run.plan
    source = printable(trace.name) if trace else "generated traffic"
    mode = f"plain, policy {plan.policy}" if plan.lease is None else "fenced"
    return (
        f"kvpoll replay: {len(run.requests):,} requests of {source}, {mode}, seed {run.seed}",
        "Watch it from another shell:",
        f"  {look.program()} ls {look.table(run)}",
        f"  {look.program()} tail {look.table(run)}",
    )


def _look(run: Run, report: Report, keep: bool) -> None:
    from redis_kvpoll.cli import look

    click.echo()
    for line in look.further(run, report):
        click.echo(line)
    if keep:
        look.hold(run, report)


def _print(report: Report, wants_json: bool) -> None:
    from rich.console import Console

    from redis_kvpoll.cli.report import as_json, render

    if wants_json:
        click.echo(json.dumps(as_json(report), indent=2))
        return
    # Into a file or a pipe: as wide as the widest table, rather than rich's 80 columns.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    for part in render(report):
        console.print(part)
