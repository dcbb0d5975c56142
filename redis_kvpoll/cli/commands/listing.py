"""``kvpoll ls`` and ``find``: the rooms of a table, by filters."""

from __future__ import annotations

import heapq
import shlex
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from redis_kvpoll.cli import as_json, ask_serve
from redis_kvpoll.cli.clock import ServerClock
from redis_kvpoll.cli.exits import NOT_FOUND, leave
from redis_kvpoll.cli.found import found_table
from redis_kvpoll.cli.options import json_option, table_options
from redis_kvpoll.cli.other_side import other_side
from redis_kvpoll.cli.rows import listed_columns, room_line, shown_cells
from redis_kvpoll.cli.selection import Found, Selection, select, selection_options, text_part, with_entries
from redis_kvpoll.errors import printable
from redis_kvpoll.model import Entry

if TYPE_CHECKING:
    from redis_kvpoll.doctor.replica import ReplicaLink
    from redis_kvpoll.sync.store import StatusStore

SORTS: dict[str, Callable[[Found], Any]] = {
    "updated": lambda found: -found.row.since,
    "age": lambda found: found.row.opened_at,
    "ttl": lambda found: found.row.ttl,
    "room": lambda found: found.row.room,
    "owner": lambda found: found.row.owner or "",
    "status": lambda found: -1 if found.row.status is None else int(found.row.status),
}
"""What a list begins with: the latest change, the oldest room, the shortest TTL, ..."""


@click.command(short_help="List the rooms of a table, by filters.")
@table_options
@selection_options()
@click.option("--sort", type=click.Choice(list(SORTS)), help="By default the latest change first; with --stuck, last.")
@click.option("--reverse", is_flag=True, help="List in the opposite order.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True, help="List at most so many rooms."
)
@click.option("--all", "wants_all", is_flag=True, help="List all rooms.")
@click.option(
    "--serve",
    envvar=ask_serve.VARIABLE,
    show_envvar=True,
    metavar="URL",
    help="A running kvpoll serve, which knows at once what is stuck (for --stuck, alone or with --status).",
)
@click.option(
    "--serve-token-file",
    envvar=f"{ask_serve.VARIABLE}_TOKEN_FILE",
    show_envvar=True,
    metavar="FILE",
    help="A file with the token for --serve.",
)
@json_option
def ls(
    url: str,
    namespace: str,
    wanted: Selection,
    sort: str | None,
    reverse: bool,
    limit: int,
    wants_all: bool,
    serve: str | None,
    serve_token_file: str | None,
    wants_json: bool,
) -> None:
    """List the rooms of a table, the latest change first; into a pipe, as tab-separated lines.

    A room is listed if it matches all options: --stuck --owner @10.0.0.1: lists the stuck rooms of one host.
    stderr says how many rooms the limit left out. It reads the whole table, in pages: 100,000 rooms take some seconds.
    With --serve, --stuck is answered at once also if there are a million; if serve gives no answer, stderr says why,
    and the table is read.
    """
    is_reversed = reverse != (sort is None and (wanted.stuck is not None or wanted.older_than is not None))
    order = Order(SORTS[sort or "updated"], is_reversed, None if wants_all else limit)
    with found_table(url, namespace) as (store, replica):
        listed, clock = None, ServerClock(url)
        if serve and ask_serve.is_question(wanted):
            listed = _asked(store, ask_serve.ServeAddress(serve, serve_token_file), namespace, wanted, order)
        if listed is None:
            matching = Matching(store, wanted, clock)
            chosen = order.first(matching)
            found = with_entries(store, chosen)
            gone = len(chosen) - len(found)
            listed = Listed(found, matching.total - gone, matching.count - gone)
    _print(namespace, wanted, listed, clock.now(), wants_json, replica)


class Order(NamedTuple):
    """What a list begins with, and how many rooms it has."""

    key: Callable[[Found], Any]
    is_reversed: bool
    limit: int | None
    """None for all."""

    def first(self, found: Iterable[Found]) -> list[Found]:
        if self.limit is None:
            return sorted(found, key=self.key, reverse=self.is_reversed)
        return (heapq.nlargest if self.is_reversed else heapq.nsmallest)(self.limit, found, key=self.key)


class Listed(NamedTuple):
    """The rooms to print."""

    found: list[Found]
    total: int
    """All rooms of the table."""
    matching: int
    source: str = ""
    """Who has found them, if it was not this command."""
    advice: str = "--all lists them, --limit more"
    """How to list what was left out."""


def _asked(
    store: StatusStore, server: ask_serve.ServeAddress, namespace: str, wanted: Selection, order: Order
) -> Listed | None:
    """Return the rooms by the word of serve, each as it is in the table now; None if serve is of no use."""
    try:
        answer = ask_serve.ask(server, namespace, wanted)
        longest_first = order.key is SORTS["updated"] and order.is_reversed
        if not answer.is_whole and not (longest_first and order.limit and order.limit <= len(answer.rooms)):
            raise ask_serve.UselessAnswerError(f"it lists {len(answer.rooms):,} rooms, and {answer.matching:,} match")
    except ask_serve.UselessAnswerError as refused:
        click.echo(f"kvpoll serve was of no use: {refused}; reading the table", err=True)
        return None
    chosen = order.first(answer.rooms)
    known = with_entries(store, chosen)
    still = [each for each in known if isinstance(each.entry, Entry) and each.entry.status is each.row.status]
    return Listed(still, answer.total, answer.matching - (len(chosen) - len(still)), answer.source)


class Matching:
    """The rooms that match, and how many there were and matched once they were read."""

    def __init__(self, store: StatusStore, wanted: Selection, clock: ServerClock) -> None:
        self._store, self._wanted, self._clock = store, wanted, clock
        self.total = self.count = 0

    def __iter__(self) -> Any:
        for found, is_taken in select(self._store, self._wanted, self._clock):
            self.total += 1
            if is_taken:
                self.count += 1
                yield found


def _print(
    namespace: str, wanted: Selection, listed: Listed, now: float, wants_json: bool, replica: ReplicaLink | None
) -> None:
    found, total, count, source, advice = listed
    left_out = count - len(found)
    if wants_json:
        rooms = [as_json.room(each.row, each.entry, now) for each in found]
        head = {"namespace": namespace, "at": now, "replica": as_json.replica(replica)}
        as_json.put({**head, "total": total, "matching": count, "rooms": rooms})
    elif not found:
        others = f"none of its {total:,} rooms matches" if total > 1 else "its one room does not match"
        what = others if total else "has no rooms"
        if wanted == Selection(status=wanted.status) and wanted.status:
            what = f"has no rooms at {' or '.join(wanted.status)}"
        joint = " " if what.startswith("has") else ": "
        by = f" ({source})" if source else ""
        click.echo(f"Namespace {namespace!r}{joint}{what}{by}.", err=not wanted.is_any and not sys.stdout.isatty())
        return
    else:
        print_found(found, now)
    if left_out > 0 or not wanted.is_any or sys.stdout.isatty():
        more = f"; {left_out:,} left out: {advice}" if left_out > 0 else ""
        of = f"{count:,} of {total:,}" if count < total else f"{total:,}"
        by = f" ({source})" if source else ""
        click.echo(f"{namespace}: {of} room{'' if total == 1 else 's'}{more}{by}", err=True)


def print_found(found: Iterable[Found], now: float) -> None:
    """Print rooms, as of the server's time ``now``: for a terminal, or tab-separated."""
    is_terminal = sys.stdout.isatty()
    lines = [room_line(each.row, each.entry, now, is_terminal) for each in found]
    columns = listed_columns(lines, is_terminal)
    if is_terminal:
        from redis_kvpoll.cli import terminal

        terminal.print_rooms(columns, lines)
    else:
        for cells in (columns, *(shown_cells(columns, line) for line in lines)):
            click.echo("\t".join(cells))


@click.command(short_help="Find the rooms of a request.")
@table_options
@click.argument("request", type=text_part)
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True, help="List at most so many rooms."
)
@json_option
def find(url: str, namespace: str, request: str, limit: int, wants_json: bool) -> None:
    """Find the rooms whose request contains a text, the latest change first.

    Only rooms that were opened have a request.

    Exit status: 1 if there is none.
    """
    wanted, clock = Selection(request=request), ServerClock(url)
    with found_table(url, namespace) as (store, replica):
        matching = Matching(store, wanted, clock)
        found = heapq.nsmallest(limit, matching, key=SORTS["updated"])
    if not found and not wants_json:
        leave(NOT_FOUND, _nothing_found(namespace, request, matching.total))
    listed = Listed(found, matching.total, matching.count, advice="--limit lists more")
    _print(namespace, wanted, listed, clock.now(), wants_json, replica)
    if not found:
        raise click.exceptions.Exit(NOT_FOUND)


def _nothing_found(namespace: str, request: str, total: int) -> str:
    rooms = f"{total:,} room{'' if total == 1 else 's'}"
    more = ""
    if there := other_side(namespace):
        more = f"; the other side: kvpoll find {shlex.quote(printable(request))} -n {there}"
    why = f"never opened, cleared, expired or evicted{more}"
    return f"namespace {namespace!r} has no room of a request {request!r} ({rooms}): {why}"
