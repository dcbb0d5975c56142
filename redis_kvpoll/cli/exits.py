"""The exit statuses of every command: one table, which the help and the documentation show."""

from __future__ import annotations

from typing import NoReturn

import click

STATUSES = {
    0: "well",
    1: "not found, refused, or the server did not answer; the reason is on stderr",
    2: "wrong usage",
    3: "a promise was broken, or something wants attention",
    4: "a problem",
    130: "interrupted by Ctrl-C",
}
OK, NOT_FOUND, USAGE, ATTENTION, PROBLEM, INTERRUPTED = STATUSES


def leave(status: int, why: str) -> NoReturn:
    """Say why on stderr, and exit."""
    click.echo(why, err=True)
    raise click.exceptions.Exit(status)
