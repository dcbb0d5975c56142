"""``kvpoll ls``, ``show``, ``clear`` and ``abort``: the rooms of a table."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import click

from redis_kvpoll.cli.options import namespace_exists, open_table, room_id, table_options
from redis_kvpoll.errors import CorruptEntryError, printable
from redis_kvpoll.model import KVPoll, Outcome

if TYPE_CHECKING:
    from redis_kvpoll.sync.store import StatusStore

COLUMNS = ("room", "status", "age", "updated", "ttl", "reason", "owner")


class Line(NamedTuple):
    """One room in a list; its cells are those of COLUMNS."""

    cells: tuple[str, ...]
    status: KVPoll | None
    """None for a corrupt room."""
    updated_at: float


@click.command(short_help="List the rooms of a table.")
@table_options
@click.option(
    "--status",
    type=click.Choice([s.name for s in KVPoll], case_sensitive=False),
    help="List only rooms at this status.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="List at most so many rooms, any of them.",
)
def ls(url: str, namespace: str, status: str | None, limit: int) -> None:
    """List the rooms of a table, the latest change first; into a pipe, as tab-separated lines."""
    wanted = KVPoll[status] if status else None
    with open_table(url, namespace) as store:
        if not namespace_exists(store, url, namespace):
            return
        rooms = list(store.rooms(wanted))
        found = [room_line(store, room) for room in rooms[:limit]]
    if not rooms:
        click.echo(f"Namespace {namespace!r} has no rooms" + (f" at {wanted.name}." if wanted is not None else "."))
        return
    lines = [line for line in found if line is not None]
    lines.sort(key=lambda line: line.updated_at, reverse=True)
    columns = listed_columns(lines)
    if sys.stdout.isatty():
        from redis_kvpoll.cli import terminal

        terminal.print_rooms(columns, lines, footer(namespace, len(lines), len(rooms), wanted))
    else:
        for row in (columns, *(line.cells for line in lines)):
            click.echo("\t".join(row[: len(columns)]))


@click.command(short_help="Show one room in full.")
@table_options
@click.argument("room", type=room_id)
def show(url: str, namespace: str, room: int) -> None:
    """Show every field of one room."""
    from redis_kvpoll.cli import terminal

    with open_table(url, namespace) as store:
        if not namespace_exists(store, url, namespace):
            sys.exit(1)
        entry = store.entry(room)
    if entry is None:
        raise click.ClickException(_absent(room, namespace))
    terminal.print_entry(entry)


@click.command(short_help="Remove one room from the table.")
@table_options
@click.argument("room", type=room_id)
def clear(url: str, namespace: str, room: int) -> None:
    """Remove one room from the table."""
    with open_table(url, namespace) as store:
        if not namespace_exists(store, url, namespace):
            sys.exit(1)
        try:
            entry = store.entry(room)
            before = entry.status.name if entry else None
        except CorruptEntryError as error:
            before = f"corrupt: it held {printable(error.found)}"
        cleared = store.clear(room)
    if before is None and cleared is None:
        raise click.ClickException(_absent(room, namespace))
    click.echo(f"Cleared room {room}; it was {cleared.name if cleared is not None else before}.")


@click.command(short_help="Fail one room, with all its ranks.")
@table_options
@click.argument("room", type=room_id)
@click.option(
    "--reason", default="Aborted by hand.", show_default=True, metavar="TEXT", help="The reason that every reader gets."
)
def abort(url: str, namespace: str, room: int, reason: str) -> None:
    """Fail one room, with all its ranks."""
    with open_table(url, namespace) as store:
        if not namespace_exists(store, url, namespace):
            sys.exit(1)
        outcome = store.abort(room, reason).outcome
        recorded = store.failure_reason(room)
    if outcome is Outcome.SKIPPED:
        raise click.ClickException(_absent(room, namespace))
    state = "is now Failed" if outcome is Outcome.FAILED else "was already Failed"
    click.echo(f"Room {room} {state}: {printable(recorded or 'no reason was recorded')}")


def room_line(store: StatusStore, room: int) -> Line | None:
    """A room's line; None if the room has gone meanwhile. A corrupt room gets a line too, and hides no other."""
    try:
        entry = store.entry(room)
    except CorruptEntryError as error:
        return Line((str(room), "corrupt", "", "", "", printable(error.found), ""), None, 0.0)
    if entry is None:
        return None
    # The times are the server's, "now" is ours: a clock skew must not give a negative age.
    now = time.time()
    ages = (f"{max(0.0, now - then):.1f} s" for then in (entry.opened_at, entry.updated_at))
    texts = (printable(entry.reason or ""), printable(entry.owner or ""))
    cells = (str(room), entry.status.name, *ages, f"{entry.ttl:.1f} s", *texts)
    return Line(cells, entry.status, entry.updated_at)


def listed_columns(lines: list[Line]) -> tuple[str, ...]:
    """The columns of a list; the owner's only if a room has one."""
    return COLUMNS if any(line.cells[-1] for line in lines) else COLUMNS[:-1]


def footer(namespace: str, shown: int, total: int, wanted: KVPoll | None) -> str:
    """The line below a list: how many rooms there are, and how many of them are listed."""
    count = f"{shown:,} of {total:,}" if total > shown else f"{total:,}"
    at = f" at {wanted.name}" if wanted is not None else ""
    return f"{namespace}: {count} room{'' if total == 1 else 's'}{at}"


def _absent(room: int, namespace: str) -> str:
    return f"room {room} is not in namespace {namespace!r} (never opened, cleared, or expired)"
