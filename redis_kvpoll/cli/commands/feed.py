"""``kvpoll tail`` and ``history``: the changes in the table's feed."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator

import click

from redis_kvpoll.cli import as_json
from redis_kvpoll.cli.clock import ServerClock
from redis_kvpoll.cli.feed_of_owner import changes_of_owner
from redis_kvpoll.cli.found import found_table
from redis_kvpoll.cli.options import json_option, room_id, table_options
from redis_kvpoll.cli.rows import GAP, HISTORY_COLUMNS, local_time, period_rows
from redis_kvpoll.cli.selection import STATUS_CHOICE, text_part
from redis_kvpoll.errors import StoreUnavailableError, printable
from redis_kvpoll.protocol.feed import Change, FeedGap
from redis_kvpoll.protocol.feed_reader import Tail
from redis_kvpoll.protocol.periods import periods, rank_change, status_name
from redis_kvpoll.serve import documents

PASSED = 20_000
"""Changes before the first that a tail of an owner shows: it learns from them whose the rooms are."""


@click.command(short_help="Print changes as they happen, until Ctrl-C.")
@table_options
@click.option(
    "--last", type=click.IntRange(min=0), default=10, show_default=True, help="Begin with this many past changes."
)
@click.option("--room", type=room_id, multiple=True, help="Changes of this room; may be repeated.")
@click.option("--status", type=STATUS_CHOICE, multiple=True, help="Changes to this status; may be repeated.")
@click.option("--reason", type=text_part, metavar="TEXT", help="Changes whose reason contains TEXT.")
@click.option(
    "--owner",
    type=text_part,
    metavar="TEXT",
    help="Changes of rooms of the owners with TEXT anywhere in their names. End an address with its colon: @10.0.0.1:",
)
@json_option
def tail(
    url: str,
    namespace: str,
    last: int,
    room: tuple[int, ...],
    status: tuple[str, ...],
    reason: str | None,
    owner: str | None,
    wants_json: bool,
) -> None:
    """Print changes as they happen, until Ctrl-C; into a pipe, as tab-separated lines.

    With --json, each line is one change.

    While the server does not answer, a line on stderr says so.

    Exit status: 130 after Ctrl-C.
    """
    is_wanted = functools.partial(_is_wanted, room, status, reason)
    with found_table(url, namespace) as (store, _):
        if owner is None:
            changes: Iterator[Change | FeedGap] = filter(is_wanted, patient(store.tail(last)))
        else:
            from redis_kvpoll.sync.operators import follow

            feed = Tail(last, before=PASSED)
            changes = changes_of_owner(patient(follow(store, feed)), store, owner, is_wanted, feed.before)
        print_changes(changes, wants_json)


@click.command(short_help="Show the changes of one room.")
@table_options
@click.argument("room", type=room_id)
@json_option
def history(url: str, namespace: str, room: int, wants_json: bool) -> None:
    """Show the changes of one room that the feed still has, and how long each status lasted.

    Exit status: 1 if there is none.
    """
    with found_table(url, namespace) as (store, replica):
        changes = store.history(room)
        entry = store.entries([room]).get(room)
        settings = store.settings()
    if wants_json:
        head = as_json.head(namespace, replica)
        as_json.put({**head, "room": room, "changes": [documents.change(change) for change in changes]})
    if not changes:
        kept = f"the last {settings.feed_length:,}" if settings else "few"
        raise click.ClickException(
            f"the feed of namespace {namespace!r} has no changes of room {room}"
            + (", though the room exists" if entry is not None else "")
            + f"; it keeps {kept} entries of a shard, and expires once no room was opened or touched for a day"
        )
    if not wants_json:
        now = ServerClock(url).now()
        found = periods(changes, entry is not None, now)
        print_history([row for period in found for row in period_rows(period)])


def _is_wanted(rooms: tuple[int, ...], statuses: tuple[str, ...], reason: str | None, change: Change | FeedGap) -> bool:
    """Whether a change matches; every gap does."""
    return isinstance(change, FeedGap) or (
        (not rooms or change.room in rooms)
        and (not statuses or status_name(change) in statuses)
        and (reason is None or reason.lower() in (change.reason or "").lower())
    )


def patient(changes: Iterator[Change | FeedGap]) -> Iterator[Change | FeedGap]:
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
            as_json.put_line(documents.change(change))
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


def print_history(cells: list[tuple[str, ...]]) -> None:
    """Print rows with the cells of HISTORY_COLUMNS: for a terminal, or tab-separated."""
    if sys.stdout.isatty():
        from redis_kvpoll.cli import terminal

        terminal.print_history(HISTORY_COLUMNS, cells)
        return
    rank = HISTORY_COLUMNS.index("rank")
    has_ranks = any(row[rank] for row in cells)
    for row in (HISTORY_COLUMNS, *cells):
        click.echo("\t".join(cell for at, cell in enumerate(row) if has_ranks or at != rank))
