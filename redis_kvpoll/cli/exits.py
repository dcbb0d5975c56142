"""The exit statuses of every command: one table, which the help and the documentation show."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

import click

STATUSES = {
    0: "well",
    1: "not found, refused, or the server did not answer; the reason is on stderr",
    2: "wrong usage",
    3: "something needs attention: a room Failed, doctor warns, or replay found a violated guarantee",
    4: "a problem",
    130: "interrupted by Ctrl-C",
}
LONGEST_PAUSE = 3600.0

OK, NOT_FOUND, USAGE, ATTENTION, PROBLEM, INTERRUPTED = STATUSES


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Any command: after Ctrl-C it exits with INTERRUPTED, without a word, also if a question was asked."""
    try:
        yield
    except (KeyboardInterrupt, click.Abort) as end:
        # click makes one Abort of Ctrl-C and of an end of the input, which is a no.
        if isinstance(end, click.Abort) and not isinstance(end.__context__, KeyboardInterrupt):
            raise
        if sys.stdout.isatty():
            click.echo()  # the terminal has shown ^C
        raise click.exceptions.Exit(INTERRUPTED) from None


def pause(seconds: float) -> None:
    """Wait before the next look at what is watched."""
    time.sleep(min(seconds, LONGEST_PAUSE))


def leave(status: int, why: str) -> NoReturn:
    """Say why on stderr, and exit."""
    click.echo(why, err=True)
    raise click.exceptions.Exit(status)
