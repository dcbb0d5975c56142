"""``kvpoll tail`` and ``history``: the changes in the table's feed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from redis_kvpoll.cli.options import namespace_exists, open_table, room_id, table_options
from redis_kvpoll.cli.rows import GAP, HISTORY_COLUMNS, local_time, period_rows, periods, rank_change, status_name
from redis_kvpoll.errors import CorruptEntryError, StoreUnavailableError, printable
from redis_kvpoll.protocol.feed import Change, FeedGap

if TYPE_CHECKING:
    from redis_kvpoll.sync.store import StatusStore

TAIL_DEADLINE = 2.0
"""Seconds without an answer, after which a running tail says so. It goes on when the server answers."""
INTERRUPTED = 130


@click.command(short_help="Print changes as they happen, until Ctrl-C.")
@table_options
@click.option(
    "--last", type=click.IntRange(min=0), default=10, show_default=True, help="Start with so many past changes."
)
@click.option("--json", "wants_json", is_flag=True, help="Print each change as a line of JSON.")
def tail(url: str, namespace: str, last: int, wants_json: bool) -> None:
    """Print changes as they happen, until Ctrl-C; into a pipe, as tab-separated lines.

    While the server does not answer, a line on stderr says so.

    Exit status: 130 after Ctrl-C.
    """
    with open_table(url, namespace) as store:
        if not namespace_exists(store, url, namespace):
            sys.exit(1)
    try:
        with open_table(url, namespace, TAIL_DEADLINE) as store:
            print_changes(_patient(store.tail(last)), wants_json)
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            click.echo()  # the terminal has shown ^C
        sys.exit(INTERRUPTED)


@click.command(short_help="Show the changes of one room.")
@table_options
@click.argument("room", type=room_id)
@click.option("--json", "wants_json", is_flag=True, help="Print the changes as JSON, each by itself.")
def history(url: str, namespace: str, room: int, wants_json: bool) -> None:
    """Show the changes of one room that the feed still has, and how long each status lasted."""
    with open_table(url, namespace) as store:
        if not namespace_exists(store, url, namespace):
            sys.exit(1)
        changes = store.history(room)
        exists = _exists(store, room)
        settings = store.settings()
    if wants_json:
        click.echo(json.dumps([as_json(change) for change in changes], indent=2))
    elif not changes:
        kept = f"the last {settings.feed_length:,}" if settings else "few"
        raise click.ClickException(
            f"the feed of namespace {namespace!r} has no changes of room {room}"
            + (", though the room exists" if exists else "")
            + f"; it keeps {kept} entries of a shard, and expires once no room was opened or touched for a day"
        )
    else:
        print_history([row for period in periods(changes, exists, time.time()) for row in period_rows(period)])


def _exists(store: StatusStore, room: int) -> bool:
    try:
        return store.get(room) is not None
    except CorruptEntryError:
        return True


def _patient(changes: Iterator[Change | FeedGap]) -> Iterator[Change | FeedGap]:
    """The changes, however long the server is away meanwhile; what goes wrong is told once."""
    is_away = False
    while True:
        try:
            change = next(changes)
        except StopIteration:
            return
        except StoreUnavailableError as error:
            if not is_away:
                click.echo(f"{error}; it goes on when the server answers", err=True)
            is_away = True
        else:
            is_away = False
            yield change


def print_changes(changes: Iterable[Change | FeedGap], wants_json: bool) -> None:
    """Print changes as they come: as JSON, for a terminal, or tab-separated."""
    if wants_json:
        for change in changes:
            click.echo(json.dumps(as_json(change)))
    elif sys.stdout.isatty():
        from redis_kvpoll.cli import terminal

        terminal.print_changes(changes)
    else:
        for change in changes:
            if isinstance(change, FeedGap):
                click.echo(f"\t\tgap\t{GAP}")
                continue
            cells = local_time(change.at), str(change.room), status_name(change), printable(change.reason or "")
            click.echo("\t".join(cells if change.rank is None else (*cells, f"rank {rank_change(change)}")))


def as_json(change: Change | FeedGap) -> dict[str, Any]:
    """A change as JSON's types."""
    if isinstance(change, FeedGap):
        return {"gap": change._asdict()}
    statuses = {"status": change.status, "rank_status": change.rank_status}
    return change._asdict() | {name: None if status is None else status.name for name, status in statuses.items()}


def print_history(cells: list[tuple[str, ...]]) -> None:
    """Print rows with the cells of HISTORY_COLUMNS: for a terminal, or tab-separated."""
    if sys.stdout.isatty():
        from redis_kvpoll.cli import terminal

        terminal.print_history(HISTORY_COLUMNS, cells)
        return
    width = len(HISTORY_COLUMNS) if any(row[-1] for row in cells) else len(HISTORY_COLUMNS) - 1
    for row in (HISTORY_COLUMNS, *cells):
        click.echo("\t".join(row[:width]))
