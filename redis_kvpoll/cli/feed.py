"""``kvpoll tail`` and ``history``: the changes in the table's feed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from redis_kvpoll.cli.options import local_time, namespace_exists, open_table, room_id, table_options
from redis_kvpoll.errors import CorruptEntryError, printable
from redis_kvpoll.protocol.feed import Change, FeedGap

if TYPE_CHECKING:
    from redis_kvpoll.sync.store import StatusStore

TAIL_DEADLINE = 60.0
"""Seconds that a running tail waits for an unreachable server."""
INTERRUPTED = 130
GAP = "changes may be missing here: the feed was trimmed before they were read, or it was lost"
CLEARED = "cleared"
COLUMNS = ("since", "status", "lasted", "reason", "note", "rank")


@click.command(short_help="Print changes as they happen, until Ctrl-C.")
@table_options
@click.option(
    "--last", type=click.IntRange(min=0), default=10, show_default=True, help="Start with so many past changes."
)
@click.option("--json", "wants_json", is_flag=True, help="Print each change as a line of JSON.")
def tail(url: str, namespace: str, last: int, wants_json: bool) -> None:
    """Print changes as they happen, until Ctrl-C; into a pipe, as tab-separated lines.

    Exit status: 130 after Ctrl-C.
    """
    with open_table(url, namespace) as store:
        if not namespace_exists(store, url, namespace):
            sys.exit(1)
    try:
        with open_table(url, namespace, TAIL_DEADLINE) as store:
            print_changes(store.tail(last), wants_json)
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
        kept = f"the last {settings.feed:,}" if settings else "few"
        raise click.ClickException(
            f"the feed of namespace {namespace!r} has no changes of room {room}"
            + (", though the room exists" if exists else "")
            + f"; it keeps {kept} entries of a shard, and expires once no room was opened or touched for a day"
        )
    else:
        print_history([row for period in periods(changes, exists, time.time()) for row in rows(period)])


class Period(NamedTuple):
    """The time for which a room had one status. Times are Unix times in seconds."""

    since: float
    state: str
    """A status, or cleared, expired, gone."""
    until: float | None = None
    reason: str = ""
    touches: int = 0
    is_current: bool = False
    ranks: tuple[tuple[float, str], ...] = ()
    """The changes of single ranks in this time, in order, with their times."""


def periods(changes: list[Change], exists: bool, now: float) -> Iterator[Period]:
    """The periods between changes. The feed has no entry for an expiry: it follows from the TTLs."""
    period: Period | None = None
    expires: float | None = None
    for change in changes:
        state = status_name(change)
        if period and expires is not None and change.at > expires:
            yield period._replace(until=expires)
            yield Period(expires, "expired")
            period = expires = None
        if period and state == period.state != CLEARED:
            reason = change.reason or period.reason
            is_touch = change.reason is None and change.rank is None
            period = period._replace(
                reason=reason, touches=period.touches + is_touch, ranks=period.ranks + _rank_changes(change)
            )
        else:
            if period:
                yield period if period.state == CLEARED else period._replace(until=change.at)
            period = Period(change.at, state, reason=change.reason or "", ranks=_rank_changes(change))
        if change.ttl is not None or change.status is None:
            expires = None if change.ttl is None else change.at + change.ttl
    if period is None or period.state == CLEARED:
        yield from [period] if period else []
    elif exists:
        yield period._replace(until=max(now, period.since), is_current=True)
    elif expires is not None and expires <= now:
        yield period._replace(until=expires)
        yield Period(expires, "expired")
    else:
        yield period
        yield Period(now, "gone")


def _rank_changes(change: Change) -> tuple[tuple[float, str], ...]:
    return ((change.at, rank_change(change)),) if change.rank is not None else ()


def rank_change(change: Change) -> str:
    """The rank that changed, and its status; empty if none did."""
    if change.rank is None:
        return ""
    return f"{change.rank}: {CLEARED if change.rank_status is None else change.rank_status.name}"


def status_name(change: Change) -> str:
    """The status that a change led to, or cleared."""
    return CLEARED if change.status is None else change.status.name


def _exists(store: StatusStore, room: int) -> bool:
    try:
        return store.get(room) is not None
    except CorruptEntryError:
        return True


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


def rows(period: Period) -> list[tuple[str, ...]]:
    """A row with the cells of COLUMNS for a period and its first rank change, and one for each further rank change."""
    lasted = "" if period.until is None else f"{period.until - period.since:.3f} s"
    times = "once" if period.touches == 1 else f"{period.touches:,} times"
    notes = ["until now"] * period.is_current + [f"touched {times}"] * (period.touches > 0)
    first = period.ranks[0][1] if period.ranks else ""
    cells = (local_time(period.since), period.state, lasted, printable(period.reason), ", ".join(notes), first)
    return [cells, *((local_time(at), "", "", "", "", change) for at, change in period.ranks[1:])]


def print_history(cells: list[tuple[str, ...]]) -> None:
    """Print rows with the cells of COLUMNS: for a terminal, or tab-separated."""
    if sys.stdout.isatty():
        from redis_kvpoll.cli import terminal

        terminal.print_history(COLUMNS, cells)
        return
    width = len(COLUMNS) if any(row[-1] for row in cells) else len(COLUMNS) - 1
    for row in (COLUMNS, *cells):
        click.echo("\t".join(row[:width]))
