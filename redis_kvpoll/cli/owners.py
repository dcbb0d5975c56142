"""kvpoll owners and reap: who owns rooms and lives, and failing the rooms of those who do not."""

from __future__ import annotations

import sys
import time

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from redis_kvpoll.cli.options import is_in_use, open_table, table_options
from redis_kvpoll.cli.table import moment, print_table
from redis_kvpoll.errors import printable
from redis_kvpoll.model import Owner

STYLES = {"alive": "green", "expired": "yellow", "suspected": "yellow", "lost": "red"}
COLUMNS = ("owner", "since", "heartbeat", "state", "live rooms", "reason")


@click.command(short_help="List who owns rooms, and whether they live.")
@table_options
def owners(url: str, namespace: str) -> None:
    """List who owns rooms, since when, and when each was last heard of; into a pipe, as lines with tabs.

    A lease that lapsed is marked by the first who looks, and lost by a later look; then its live rooms are failed.
    """
    with open_table(url, namespace) as store:
        if not is_in_use(store, url, namespace):
            return
        found = store.owners()
    if not found:
        click.echo(f"Nobody holds a lease in namespace {namespace!r}.")
    elif sys.stdout.isatty():
        _print_owners(found)
    else:
        for line in (COLUMNS, *map(_cells, found)):
            click.echo("\t".join(line))


@click.command(short_help="Fail the rooms of owners that are dead.")
@table_options
def reap(url: str, namespace: str) -> None:
    """Look at all leases, and fail the live rooms of owners that are lost.

    Whoever holds a lease does this all the time; it is needed by hand when nobody is left. A lease that has lapsed is
    only marked at first, so a second look is needed.
    """
    with open_table(url, namespace) as store:
        if not is_in_use(store, url, namespace):
            return
        failed = store.reap()
        marked = [owner for owner in store.owners() if owner.state == "suspected"]
    click.echo(f"Failed {failed:,} room{'' if failed == 1 else 's'} of lost owners.")
    for owner in marked:
        click.echo(f"Marked {printable(owner.name)}, owner of {owner.rooms:,} live rooms: {_last_heard(owner)}.")
    if marked:
        seconds = max(0.6, *(2 * owner.heartbeat for owner in marked))
        click.echo(
            "The living take their mark away by the next heartbeat. "
            f"Look again in {seconds:g} s or later: a second look fails the rooms of those who did not."
        )


def _print_owners(owners: list[Owner]) -> None:
    """What matters most first: a narrow terminal shows the last columns below."""
    names = ("owner", "state", "live rooms", "heartbeat", "since", "reason")
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name == "live rooms" else "left", no_wrap=name != "reason")
    for owner in owners:
        cells = {name: Text(cell) for name, cell in zip(COLUMNS, _cells(owner), strict=True)}
        cells["since"] = cells["since"][: len("2026-01-31 12:00:00")]  # the zone is the terminal's own
        cells["state"].stylize(STYLES[owner.state])
        table.add_row(*(cells[name] for name in names))
    print_table(Console(highlight=False), table)


def _cells(owner: Owner) -> tuple[str, ...]:
    heartbeat = f"{max(0.0, time.time() - owner.last_heartbeat_at):.1f} s ago" if owner.last_heartbeat_at else ""
    return (
        printable(owner.name),
        moment(owner.since),
        heartbeat,
        owner.state,
        f"{owner.rooms:,}",
        printable(owner.reason),
    )


def _last_heard(owner: Owner) -> str:
    return f"last heard of at {moment(owner.last_heartbeat_at)}, for a lease of {owner.ttl:g} s"
