"""What to look at after a replay: commands that work as printed, and the table itself until Enter is pressed."""

from __future__ import annotations

import contextlib
import select
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace

import click
from click.core import ParameterSource

from redis_kvpoll.errors import KVPollError, printable
from redis_kvpoll.replay import runner, traffic
from redis_kvpoll.replay.pacing import slower_speed
from redis_kvpoll.replay.report import Report
from redis_kvpoll.replay.router import ReplayProgress, Run
from redis_kvpoll.transport.urls import parse

OPTIONS_OF_TRAFFIC = {"trace", "prefill", "decode", "limit", "abort_rate", "late_rate", "reuse_rate", "crash_rate"}
"""Without speed and seed, which are always named."""
REQUESTS_PER_SECOND = 8.0
"""Evenly, so that some rooms are there at any time; each request takes as long as in the trace."""
HOUR = 3600
"""Seconds after which the traffic ends by itself."""


def program() -> str:
    """How to call this command from another shell: that of a checkout's .venv, as make demo runs it, is not on PATH."""
    return "kvpoll" if shutil.which("kvpoll") or not sys.argv[0].endswith("kvpoll") else shlex.quote(sys.argv[0])


def table(run: Run) -> str:
    """The options that name the table; without the URL's password, since this goes into logs."""
    return f"--redis {parse(run.plan.url).shown} --namespace {run.plan.namespace}-decode"


def further(run: Run, report: Report) -> Iterator[str]:
    """What to run next, on a private server: the same traffic, by the options that were typed for this command."""
    speed = slower_speed(report.speed, report.carried_speed) if report.is_slowed else report.speed
    same = shlex.join([*_typed(), f"--speed={speed:g}", f"--seed={run.seed}"])
    yield "Look further:"
    if run.plan.lease is None:
        yield "  the same traffic through generations and leases:"
        yield f"    {program()} replay {same}"
        return
    yield "  the same traffic by SGLang's own rule, where rooms come back:"
    yield f"    {program()} replay --plain --policy=compat {same}"
    yield "  and with a server that is killed twice, with all its data:"
    yield f"    {program()} replay --kill-redis=2 {same}"


def _typed() -> Iterator[str]:
    context = click.get_current_context()
    for option in context.command.params:
        name, value = str(option.name), context.params.get(str(option.name))
        if name in OPTIONS_OF_TRAFFIC and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            yield f"{option.opts[0]}={value}"


def hold(run: Run, report: Report) -> None:
    """Keep the table, under light traffic, until Enter is pressed; on a terminal only."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    prompt = _prompt(run, report)

    def show(snapshot: ReplayProgress) -> None:
        if snapshot.dispatched:  # from now on there is something to see
            next(prompt, None)
        if select.select([sys.stdin], [], [], 0)[0]:
            sys.stdin.readline()
            raise KeyboardInterrupt  # Enter ends the traffic just as Ctrl-C does

    try:
        with contextlib.suppress(KeyboardInterrupt):
            generated = traffic.generate(int(HOUR * REQUESTS_PER_SECOND), run.seed)
            requests = [replace(request, at=request.id / REQUESTS_PER_SECOND) for request in generated]
            slow = run._replace(plan=run.plan._replace(speed=1.0), requests=requests)
            runner.replay(slow._replace(rates=replace(run.rates, crash=0.0)), show)
    except KVPollError as error:  # the verdict stands
        click.echo(f"the traffic has ended: {printable(str(error))}", err=True)


def _prompt(run: Run, report: Report) -> Iterator[None]:
    """Print, once, where the table is."""
    commands = ["ls", "tail", "owners"]
    if report.example_room is not None:
        commands.append(f"history {report.example_room}")
    click.echo("\nThe table is still there, under light traffic. Look at it from another shell:")
    for command in commands:
        click.echo(f"  {program()} {command} {table(run)}")
    click.echo("Press Enter to end.")
    yield
