"""kvpoll ls, show and clear: the table as it is now."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from itertools import islice

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from redis_kvpoll import checks
from redis_kvpoll.cli.options import Room, is_in_use, open_table, table_options
from redis_kvpoll.errors import printable
from redis_kvpoll.status import Entry, KVPoll

STYLES = {
    KVPoll.Failed: "red",
    KVPoll.Bootstrapping: "dim",
    KVPoll.WaitingForInput: "yellow",
    KVPoll.Transferring: "cyan",
    KVPoll.Success: "green",
}
COLUMNS = ("room", "status", "age", "updated", "ttl", "reason")


@click.command()
@table_options
@click.option("--status", type=click.Choice([s.name for s in KVPoll], case_sensitive=False), help="Only these.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Rooms at most.")
def ls(url: str, namespace: str, status: str | None, limit: int) -> None:
    """List the rooms of a table; into a pipe, as lines with tabs."""
    with open_table(url, namespace) as store:
        if not is_in_use(store, namespace):
            return
        counts = store.counts()
        wanted = KVPoll[status] if status else None
        entries = [entry for room in islice(store.rooms(wanted), limit) if (entry := store.entry(room))]
    if not entries:
        click.echo(f"Namespace {namespace!r} has no rooms" + (f" at {wanted.name}." if wanted is not None else "."))
        return
    entries.sort(key=lambda entry: entry.updated_at, reverse=True)
    if sys.stdout.isatty():
        _print_table(namespace, entries, counts, wanted)
    else:
        click.echo("\t".join(COLUMNS))
        for entry in entries:
            click.echo("\t".join(_cells(entry)))


@click.command()
@table_options
@click.argument("room", type=Room())
def show(url: str, namespace: str, room: int) -> None:
    """Show all that is known of one room."""
    with open_table(url, namespace) as store:
        if not is_in_use(store, namespace):
            sys.exit(1)
        entry = store.entry(room)
    if entry is None:
        raise click.ClickException(_absent(room, namespace))
    fields: dict[str, str | Text] = {
        "room": str(room),
        "status": Text(entry.status.name, STYLES[entry.status]),
        "opened": _moment(entry.opened_at),
        "updated": _moment(entry.updated_at),
        "ttl": f"{entry.ttl:.1f} s",
        "reason": printable(entry.reason or ""),
        "failed by": printable(entry.failed_by or ""),
        "decode prefix": "" if entry.decode_prefix_len is None else f"{entry.decode_prefix_len:,} tokens",
    }
    grid = Table.grid(padding=(0, 2))
    for name, value in fields.items():
        if value:
            grid.add_row(Text(name, "dim"), value if isinstance(value, Text) else Text(value))
    Console(highlight=False).print(grid)


@click.command()
@table_options
@click.argument("room", type=Room())
def clear(url: str, namespace: str, room: int) -> None:
    """Remove one room from the table."""
    with open_table(url, namespace) as store:
        if not is_in_use(store, namespace):
            sys.exit(1)
        was = store.clear(room)
    if was is None:
        raise click.ClickException(_absent(room, namespace))
    click.echo(f"Cleared room {room}; it was {was.name}.")


def _print_table(namespace: str, entries: list[Entry], counts: dict[KVPoll, int], wanted: KVPoll | None) -> None:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in COLUMNS:
        right = name in ("age", "updated", "ttl")
        # However narrow the terminal: an id that is cut short cannot be copied.
        width = {"room": len(str(checks.MAX_ROOM)), "status": max(len(s.name) for s in KVPoll)}.get(name)
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "reason", min_width=width)
    for entry in entries:
        room, status, *rest = _cells(entry)
        table.add_row(room, Text(status, STYLES[entry.status]), *map(Text, rest))
    console = Console(highlight=False)
    console.print(table)
    total = counts[wanted] if wanted is not None else sum(counts.values())
    shown = f"{len(entries):,} of {total:,}" if total > len(entries) else f"{total:,}"
    by_status = ", ".join(f"{count:,} {status.name}" for status, count in counts.items() if count)
    console.print(Text(f"{namespace}: {shown} room{'' if total == 1 else 's'} ({by_status})", "dim"))


def _cells(entry: Entry) -> tuple[str, ...]:
    # Ages by our clock, the times by the server's: a skew between them must not show a room from the future.
    now = time.time()
    ages = (f"{max(0.0, now - then):.1f} s" for then in (entry.opened_at, entry.updated_at))
    return (str(entry.room), entry.status.name, *ages, f"{entry.ttl:.1f} s", printable(entry.reason or ""))


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="milliseconds")


def _absent(room: int, namespace: str) -> str:
    return f"room {room} is not in namespace {namespace!r} (never opened, cleared, or expired)"
