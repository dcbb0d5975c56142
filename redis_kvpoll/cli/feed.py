"""kvpoll tail and history: what has changed, from the feed of the table."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from redis_kvpoll.cli.options import Room, is_in_use, open_table, table_options
from redis_kvpoll.cli.table import STYLES, moment, print_table
from redis_kvpoll.errors import CorruptEntryError, printable
from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol.feed import Change, FeedGap
from redis_kvpoll.sync.store import StatusStore

PATIENCE = 60.0
"""Seconds that a running tail waits for a server that is away."""
INTERRUPTED = 130
GAP = "changes may be missing here: the feed was trimmed before they were read, or it was lost"
CLEARED = "cleared"
COLUMNS = ("since", "status", "lasted", "reason", "note", "rank")


@click.command(short_help="Print changes as they come, until Ctrl-C.")
@table_options
@click.option(
    "--last", type=click.IntRange(min=0), default=10, show_default=True, help="Begin with so many past changes."
)
@click.option("--json", "wants_json", is_flag=True, help="Print each change as a line of JSON.")
def tail(url: str, namespace: str, last: int, wants_json: bool) -> None:
    """Print changes as they come, until Ctrl-C; into a pipe, as lines with tabs.

    Exit status: 130 after Ctrl-C.
    """
    with open_table(url, namespace) as store:
        if not is_in_use(store, url, namespace):
            sys.exit(1)
    try:
        with open_table(url, namespace, PATIENCE) as store:
            _print_changes(store.tail(last), wants_json)
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            click.echo()  # the terminal has shown ^C
        sys.exit(INTERRUPTED)


@click.command(short_help="Show what one room has been through.")
@table_options
@click.argument("room", type=Room())
@click.option("--json", "wants_json", is_flag=True, help="Print the changes as JSON, each by itself.")
def history(url: str, namespace: str, room: int, wants_json: bool) -> None:
    """Show what is left of one room's changes, and how long each status lasted."""
    with open_table(url, namespace) as store:
        if not is_in_use(store, url, namespace):
            sys.exit(1)
        found = store.history(room)
        is_there = _is_there(store, room)
        settings = store.settings()
    if wants_json:
        click.echo(json.dumps([_as_json(change) for change in found], indent=2))
    elif not found:
        kept = f"{settings.feed_length:,}" if settings else "few"
        raise click.ClickException(
            f"the feed of namespace {namespace!r} has nothing of room {room}"
            + (", though the room is there" if is_there else "")
            + f"; it keeps the last {kept} entries of a shard, and none once no room was opened or touched for a day"
        )
    else:
        _print_history([row for stay in stays(found, is_there, time.time()) for row in _rows(stay)])


class Stay(NamedTuple):
    """A status for as long as a room had it. Times are Unix times in seconds."""

    since: float
    what: str
    """A status, or cleared, expired, gone."""
    until: float | None = None
    reason: str = ""
    touched: int = 0
    is_now: bool = False
    ranks: tuple[tuple[float, str], ...] = ()
    """What single ranks did meanwhile, and when, in order."""


def stays(changes: list[Change], is_there: bool, now: float) -> Iterator[Stay]:
    """Changes as the times between them. An expiry is in no feed: it follows from the TTLs."""
    stay: Stay | None = None
    expires: float | None = None
    for change in changes:
        what = CLEARED if change.status is None else change.status.name
        if stay and expires is not None and change.at > expires:
            yield stay._replace(until=expires)
            yield Stay(expires, "expired")
            stay = expires = None
        if stay and what == stay.what != CLEARED:
            reason = change.reason or stay.reason
            is_touch = change.reason is None and change.rank is None
            stay = stay._replace(reason=reason, touched=stay.touched + is_touch, ranks=stay.ranks + _moves(change))
        else:
            if stay:
                yield stay if stay.what == CLEARED else stay._replace(until=change.at)
            stay = Stay(change.at, what, reason=change.reason or "", ranks=_moves(change))
        if change.ttl is not None or change.status is None:
            expires = None if change.ttl is None else change.at + change.ttl
    if stay is None or stay.what == CLEARED:
        yield from [stay] if stay else []
    elif is_there:
        yield stay._replace(until=max(now, stay.since), is_now=True)
    elif expires is not None and expires <= now:
        yield stay._replace(until=expires)
        yield Stay(expires, "expired")
    else:
        yield stay
        yield Stay(now, "gone")


def _moves(change: Change) -> tuple[tuple[float, str], ...]:
    return ((change.at, _of_rank(change)),) if change.rank is not None else ()


def _of_rank(change: Change) -> str:
    """Which rank changed, and to what; empty when it was none."""
    if change.rank is None:
        return ""
    return f"{change.rank}: {CLEARED if change.rank_status is None else change.rank_status.name}"


def _is_there(store: StatusStore, room: int) -> bool:
    try:
        return store.get(room) is not None
    except CorruptEntryError:
        return True


def _print_changes(changes: Iterator[Change | FeedGap], wants_json: bool) -> None:
    console = Console(highlight=False) if sys.stdout.isatty() and not wants_json else None
    today = ""
    for change in changes:
        if wants_json:
            click.echo(json.dumps(_as_json(change)))
        elif console:
            if isinstance(change, Change) and (day := moment(change.at).partition(" ")[0]) != today:
                today = day
                console.print(Text(f"-- {day} --", "dim"))
            console.print(_line(change), soft_wrap=True)
        elif isinstance(change, FeedGap):
            click.echo(f"\t\tgap\t{GAP}")
        else:
            cells = moment(change.at), str(change.room), _status(change), printable(change.reason or "")
            click.echo("\t".join(cells if change.rank is None else (*cells, f"rank {_of_rank(change)}")))


def _line(change: Change | FeedGap) -> Text:
    if isinstance(change, FeedGap):
        return Text(f"-- {GAP} --", "bold yellow")
    # As wide as the longest of each, so that all lines stand in columns, and no wider: with a rank it fits into 80.
    # Without the zone, which is the terminal's own, and the day, which stands above.
    clock = moment(change.at).partition(" ")[2][: len("12:00:00.000")]
    style = STYLES[change.status] if change.status is not None else ""
    line = Text.assemble((f"{clock:12}", "dim"), f"  {change.room:<19}  ", (f"{_status(change):<15}", style))
    line.append(f"  rank {_of_rank(change)}" if change.rank is not None else "", "dim")
    line.append(f"  {printable(change.reason)}" if change.reason else "")
    line.rstrip()
    return line


def _status(change: Change) -> str:
    return CLEARED if change.status is None else change.status.name


def _as_json(change: Change | FeedGap) -> dict[str, Any]:
    if isinstance(change, FeedGap):
        return {"gap": change._asdict()}
    statuses = {"status": change.status, "rank_status": change.rank_status}
    return change._asdict() | {name: None if status is None else status.name for name, status in statuses.items()}


def _cells(stay: Stay) -> tuple[str, ...]:
    lasted = "" if stay.until is None else f"{stay.until - stay.since:.3f} s"
    times = "once" if stay.touched == 1 else f"{stay.touched:,} times"
    notes = ["until now"] * stay.is_now + [f"touched {times}"] * (stay.touched > 0)
    first = stay.ranks[0][1] if stay.ranks else ""
    return moment(stay.since), stay.what, lasted, printable(stay.reason), ", ".join(notes), first


def _rows(stay: Stay) -> list[tuple[str, ...]]:
    """A row for a status, and one for each rank that changed while it lasted; the first is in its own."""
    return [_cells(stay), *((moment(at), "", "", "", "", what) for at, what in stay.ranks[1:])]


def _print_history(rows: list[tuple[str, ...]]) -> None:
    if not sys.stdout.isatty():
        width = len(COLUMNS) if any(row[-1] for row in rows) else len(COLUMNS) - 1
        for row in (COLUMNS, *rows):
            click.echo("\t".join(row[:width]))
        return
    # A column without a word in it is left out. The ranks stand beside the status that follows from theirs.
    names = ("since", "status", "rank", "lasted", "reason", "note")
    shown = [name for name in names if name in ("since", "status") or any(row[COLUMNS.index(name)] for row in rows)]
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in shown:
        table.add_column(name, justify="right" if name == "lasted" else "left", no_wrap=name != "reason")
    for row in rows:
        cells = {name: Text(cell) for name, cell in zip(COLUMNS, row, strict=True)}
        cells["since"] = Text(row[0][:23])
        cells["status"].stylize(STYLES[KVPoll[row[1]]] if row[1] in KVPoll.__members__ else "dim")
        table.add_row(*(cells[name] for name in shown))
    print_table(Console(highlight=False), table)
