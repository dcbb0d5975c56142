"""kvpoll ls, show, clear and abort: the table as it is now."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from redis_kvpoll import validation
from redis_kvpoll.cli.options import Room, is_in_use, open_table, table_options
from redis_kvpoll.errors import CorruptEntryError, printable
from redis_kvpoll.model import Entry, KVPoll, Outcome
from redis_kvpoll.sync.store import StatusStore

STYLES = {
    KVPoll.Failed: "red",
    KVPoll.Bootstrapping: "dim",
    KVPoll.WaitingForInput: "yellow",
    KVPoll.Transferring: "cyan",
    KVPoll.Success: "green",
}
COLUMNS = ("room", "status", "age", "updated", "ttl", "reason", "owner")
REASON_WIDTH = 20
"""Cells that a reason gets at least, if it needs them."""


@click.command(short_help="List the rooms of a table.")
@table_options
@click.option("--status", type=click.Choice([s.name for s in KVPoll], case_sensitive=False), help="Only these.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Rooms at most, of many in no order."
)
def ls(url: str, namespace: str, status: str | None, limit: int) -> None:
    """List the rooms of a table; into a pipe, as lines with tabs."""
    wanted = KVPoll[status] if status else None
    with open_table(url, namespace) as store:
        if not is_in_use(store, url, namespace):
            return
        rooms = list(store.rooms(wanted))
        found = [_look(store, room) for room in rooms[:limit]]
    if not rooms:
        click.echo(f"Namespace {namespace!r} has no rooms" + (f" at {wanted.name}." if wanted is not None else "."))
        return
    lines = [line for line in found if line is not None]
    lines.sort(key=lambda line: line.updated_at, reverse=True)
    if sys.stdout.isatty():
        _print_table(lines, _footer(namespace, len(lines), len(rooms), wanted))
    else:
        for row in (_columns(lines), *(line.cells for line in lines)):
            click.echo("\t".join(row[: len(_columns(lines))]))


@click.command()
@table_options
@click.argument("room", type=Room())
def show(url: str, namespace: str, room: int) -> None:
    """Show all that is known of one room."""
    with open_table(url, namespace) as store:
        if not is_in_use(store, url, namespace):
            sys.exit(1)
        entry = store.entry(room)
    if entry is None:
        raise click.ClickException(_absent(room, namespace))
    grid = Table.grid(padding=(0, 2))
    for name, value in _fields(entry):
        if value:
            grid.add_row(Text(name, "dim"), value if isinstance(value, Text) else Text(value))
    Console(highlight=False).print(grid)


def _fields(entry: Entry) -> Iterator[tuple[str, str | Text]]:
    """All of a room by name, some perhaps empty."""
    yield "room", str(entry.room)
    yield "status", Text(entry.status.name, STYLES[entry.status])
    yield "reason", printable(entry.reason or "")
    yield "failed by", printable(entry.failed_by or "")
    yield "request", printable(entry.request or "")
    yield "owner", printable(entry.owner or "")
    yield "generation", "" if entry.generation is None else str(entry.generation)
    yield "opened", moment(entry.opened_at)
    yield "updated", moment(entry.updated_at)
    yield "ttl", f"{entry.ttl:.1f} s"
    yield "decode prefix", "" if entry.decode_prefix_len is None else f"{entry.decode_prefix_len:,} tokens"
    if entry.world_size is not None:
        yield "world size", str(entry.world_size)
        for rank, status in sorted(entry.ranks.items()):
            cleared = ", cleared" if rank in entry.cleared else ""
            yield f"rank {rank}", Text.assemble((status.name, STYLES[status]), cleared)
        yield "not heard of", _ranges([rank for rank in range(entry.world_size) if rank not in entry.ranks])


def _ranges(numbers: list[int]) -> str:
    """Numbers in order, for people: 1, 4-7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


@click.command()
@table_options
@click.argument("room", type=Room())
def clear(url: str, namespace: str, room: int) -> None:
    """Remove one room from the table."""
    with open_table(url, namespace) as store:
        if not is_in_use(store, url, namespace):
            sys.exit(1)
        try:
            entry = store.entry(room)
            was = entry.status.name if entry else None
        except CorruptEntryError as error:
            was = f"corrupt: it held {printable(error.found)}"
        cleared = store.clear(room)
    if was is None and cleared is None:
        raise click.ClickException(_absent(room, namespace))
    click.echo(f"Cleared room {room}; it was {cleared.name if cleared is not None else was}.")


@click.command()
@table_options
@click.argument("room", type=Room())
@click.option("--reason", default="Aborted by hand.", show_default=True, metavar="TEXT", help="Why; all will read it.")
def abort(url: str, namespace: str, room: int, reason: str) -> None:
    """Fail one room, with all its ranks, for a reason."""
    with open_table(url, namespace) as store:
        if not is_in_use(store, url, namespace):
            sys.exit(1)
        outcome = store.abort(room, reason).outcome
        known = store.failure_reason(room)
    if outcome is Outcome.SKIPPED:
        raise click.ClickException(_absent(room, namespace))
    done = "is Failed now" if outcome is Outcome.FAILED else "was Failed already"
    click.echo(f"Room {room} {done}: {printable(known or 'no reason was recorded')}")


class Line(NamedTuple):
    """One room, as it is listed; its cells are those of COLUMNS."""

    cells: tuple[str, ...]
    style: str
    updated_at: float


def _look(store: StatusStore, room: int) -> Line | None:
    """A room's line; None when it has gone meanwhile. One bad key must not hide all the others."""
    try:
        entry = store.entry(room)
    except CorruptEntryError as error:
        return Line((str(room), "corrupt", "", "", "", printable(error.found), ""), "bold red", 0.0)
    if entry is None:
        return None
    # Ages by our clock, the times by the server's: a skew between them must not show a room from the future.
    now = time.time()
    ages = (f"{max(0.0, now - then):.1f} s" for then in (entry.opened_at, entry.updated_at))
    words = (printable(entry.reason or ""), printable(entry.owner or ""))
    cells = (str(room), entry.status.name, *ages, f"{entry.ttl:.1f} s", *words)
    return Line(cells, STYLES[entry.status], entry.updated_at)


def _columns(lines: list[Line]) -> tuple[str, ...]:
    """What is listed: the owner only where a room has one."""
    return COLUMNS if any(line.cells[-1] for line in lines) else COLUMNS[:-1]


def _print_table(lines: list[Line], footer: str) -> None:
    table = Table(box=None, header_style="dim", pad_edge=False)
    columns = sorted(_columns(lines), key="reason".__eq__)  # what may be long stands last
    for name in columns:
        right = name in ("age", "updated", "ttl")
        # However narrow the terminal: an id that is cut short cannot be copied.
        width = {"room": len(str(validation.MAX_ROOM)), "status": max(len(s.name) for s in KVPoll)}.get(name)
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "reason", min_width=width)
    for line in lines:
        cells = {name: Text(cell) for name, cell in zip(COLUMNS, line.cells, strict=True)}
        cells["status"].stylize(line.style)
        table.add_row(*(cells[name] for name in columns))
    console = Console(highlight=False)
    print_table(console, table)
    console.print(Text(footer, "dim"))


def print_table(console: Console, table: Table) -> None:
    """Where a terminal is too narrow for it, a row's last cells stand below it, by name: nothing is cut or left out."""
    columns = sorted(table.columns, key=lambda column: not column.no_wrap)
    rows = list(zip(*map(_texts, columns), strict=True))
    by_column = zip(columns, zip(*rows, strict=True), strict=True)
    widths = [max(column.min_width or 0, *(text.cell_len for text in texts)) for column, texts in by_column]
    needed = [w if column.no_wrap else min(w, REASON_WIDTH) for w, column in zip(widths, columns, strict=True)]
    if sum(needed) + 2 * (len(columns) - 1) <= console.width:
        console.print(table)
        return
    ends = itertools.accumulate(needed, lambda end, width: end + 2 + width)
    beside = max(1, sum(end <= console.width for end in ends))
    for row in rows:
        line = Text()
        for text, width, column in zip(row[:beside], widths, columns, strict=False):
            padding = " " * (width - text.cell_len)
            line += Text.assemble(padding, text) if column.justify == "right" else Text.assemble(text, padding)
            line += Text("  ")
        line.rstrip()
        console.print(line, soft_wrap=True)
        if row is not rows[0]:
            _print_below(console, zip(rows[0][beside:], row[beside:], strict=True))


def _print_below(console: Console, cells: Iterable[tuple[Text, Text]]) -> None:
    """The cells of one row that have no room in it, each with its column's name; empty ones are left out."""
    below = Table.grid(padding=(0, 2, 0, 0))
    below.add_column(no_wrap=True)
    below.add_column(overflow="fold")
    for name, text in cells:
        if text:
            below.add_row(Text.assemble("    ", name), text)
    if below.row_count:
        console.print(below)


def _texts(column: Column) -> list[Text]:
    texts = (cell if isinstance(cell, Text) else Text(str(cell)) for cell in column.cells)
    return [Text(str(column.header), "dim"), *texts]


def _footer(namespace: str, shown: int, total: int, wanted: KVPoll | None) -> str:
    count = f"{shown:,} of {total:,}" if total > shown else f"{total:,}"
    at = f" at {wanted.name}" if wanted is not None else ""
    return f"{namespace}: {count} room{'' if total == 1 else 's'}{at}"


def moment(at: float) -> str:
    """A Unix time for people, in their own zone."""
    try:
        return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="milliseconds")
    except (OSError, OverflowError, ValueError):  # made by hand, and far from any calendar
        return f"{at:g} s after 1970"


def _absent(room: int, namespace: str) -> str:
    return f"room {room} is not in namespace {namespace!r} (never opened, cleared, or expired)"
