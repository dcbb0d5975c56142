"""``kvpoll ls``, ``show``, ``clear`` and ``abort``: the rooms of a table."""

from __future__ import annotations

import sys

import click

from redis_kvpoll.cli.options import namespace_exists, open_table, room_id, table_options
from redis_kvpoll.cli.rows import footer, listed_columns, room_line
from redis_kvpoll.errors import CorruptEntryError, printable
from redis_kvpoll.model import KVPoll, Outcome


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
    with open_table(url, namespace, writes=True) as store:
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
    with open_table(url, namespace, writes=True) as store:
        if not namespace_exists(store, url, namespace):
            sys.exit(1)
        outcome = store.abort(room, reason).outcome
        recorded = store.failure_reason(room)
    if outcome is Outcome.SKIPPED:
        raise click.ClickException(_absent(room, namespace))
    state = "is now Failed" if outcome is Outcome.FAILED else "was already Failed"
    click.echo(f"Room {room} {state}: {printable(recorded or 'no reason was recorded')}")


def _absent(room: int, namespace: str) -> str:
    return f"room {room} is not in namespace {namespace!r} (never opened, cleared, or expired)"
