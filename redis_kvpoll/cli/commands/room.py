"""``kvpoll show`` and ``wait``: one room, its timeline, and the end of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import click

from redis_kvpoll.cli import as_json
from redis_kvpoll.cli.clock import ServerClock
from redis_kvpoll.cli.durations import duration, human
from redis_kvpoll.cli.exits import ATTENTION, NOT_FOUND, leave, pause
from redis_kvpoll.cli.found import found_table
from redis_kvpoll.cli.options import json_option, room_id, table_options
from redis_kvpoll.cli.other_side import OtherRoom, leases, process_of, read_other_side
from redis_kvpoll.cli.selection import STATUS_CHOICE
from redis_kvpoll.errors import FeedOffError, RoomNotFoundError, ServerRefusedError, WaitTimeoutError, printable
from redis_kvpoll.model import Entry, KVPoll, Owner
from redis_kvpoll.protocol.periods import Period, periods

if TYPE_CHECKING:
    from redis_kvpoll.doctor.replica import ReplicaLink
    from redis_kvpoll.protocol.feed import Change
    from redis_kvpoll.sync.store import StatusStore

T = TypeVar("T")

WATCH_INTERVAL = 1.0


class Seen(NamedTuple):
    """What is known of a room, and of the same room in the other side's table."""

    entry: Entry
    changes: list[Change]
    other: OtherRoom | None
    """None if this namespace belongs to no side."""
    owners: dict[int, str]
    """The owner of each rank that takes part, and its state."""
    process: str
    """The process of the owner, as ``host:pid``; empty if it is not known."""


@click.command(short_help="Show one room in full, with its timeline.")
@table_options
@click.argument("room", type=room_id)
@click.option("--watch", is_flag=True, help="Show it again each second, until it has ended.")
@json_option
def show(url: str, namespace: str, room: int, watch: bool, wants_json: bool) -> None:
    """Show every field of one room, how long it was at each status, and the other side's room.

    ROOM is decimal, or hexadecimal with 0x. A namespace that ends in -prefill or -decode has another side.

    Exit status: 1 if the room is absent.
    """
    clock = ServerClock(url)
    with found_table(url, namespace) as (store, replica):
        while True:
            seen = _seen(store, url, namespace, room)
            if seen is None:
                leave(NOT_FOUND, f"Error: {absent(url, namespace, room)}")
            if wants_json:
                (as_json.put_line if watch else as_json.put)(_document(namespace, seen, clock.now(), replica))
            else:
                _print(seen, clock.now())
            if not watch or seen.entry.status.is_terminal:
                return
            pause(WATCH_INTERVAL)
            if sys.stdout.isatty() and not wants_json:
                click.clear()


def _seen(store: StatusStore, url: str, namespace: str, room: int) -> Seen | None:
    entry = store.entry(room)
    if entry is None:
        return None
    changes = _part("timeline", lambda: store.history(room))
    other = read_other_side(url, namespace, room)
    owners = _part("owners", lambda: leases(store, entry))
    return Seen(entry, _of_this_life(changes or []), other, _owners(owners, entry), process_of(entry, owners or []))


def _part(what: str, read: Callable[[], list[T]]) -> list[T] | None:
    """Read what goes with a room. If the server refuses that, say so on stderr: the room itself is shown."""
    try:
        return read()
    except FeedOffError:
        return []
    except ServerRefusedError as error:
        click.echo(printable(f"The {what} of the room cannot be read: {error}"), err=True)
        return None


def _owners(owners: list[Owner] | None, entry: Entry) -> dict[int, str]:
    if owners is None:
        return {}
    shown = {one.incarnation: f"{one.name} ({one.state})" for one in owners}
    return {rank: shown.get(incarnation, "an owner that is gone") for rank, incarnation in entry.rank_leases.items()}


def _of_this_life(changes: list[Change]) -> list[Change]:
    """The changes since the room was opened: its id may have been used before."""
    begins = max((at for at, change in enumerate(changes) if change.opens), default=0)
    return changes[begins:]


def _document(namespace: str, seen: Seen, now: float, replica: ReplicaLink | None) -> dict[str, object]:
    other = seen.other and {
        "namespace": seen.other.namespace,
        "room": as_json.room(None, seen.other.entry, now) if seen.other.entry else None,
        "process": seen.other.process or None,
        "error": seen.other.error or None,
    }
    return {
        "namespace": namespace,
        **as_json.room(None, seen.entry, now),
        "room_hex": f"{seen.entry.room:#x}",
        "rank_owners": {str(rank): owner for rank, owner in sorted(seen.owners.items())},
        "process": seen.process or None,
        "timeline": [_period(period) for period in _timeline(seen, now)],
        "other_side": other,
        "replica": as_json.replica(replica),
    }


def _print(seen: Seen, now: float) -> None:
    from redis_kvpoll.cli import terminal
    from redis_kvpoll.cli import timeline as drawn

    terminal.print_entry(seen.entry, seen.owners, seen.process)
    drawn.print_timeline(_timeline(seen, now), seen.entry.restored_at)
    if seen.other is not None:
        drawn.print_other_side(seen.other)


def _timeline(seen: Seen, now: float) -> list[Period]:
    """The timeline of a room; if nothing has happened since its restore, it begins at the last change before."""
    entry, timeline = seen.entry, list(periods(seen.changes, True, now))
    if entry.restored_at is None or len(timeline) != 1 or timeline[0].state != entry.status.name:
        return timeline
    return [timeline[0]._replace(since=min(timeline[0].since, entry.updated_at))]


def _period(period: Period) -> dict[str, object]:
    until = None if period.is_current else period.until
    return {
        "since": period.since,
        "status": period.state,
        "seconds": None if period.until is None else period.until - period.since,
        "until": until,
        "reason": period.reason or None,
        "ranks": [{"at": at, "change": change} for at, change in period.ranks],
    }


@click.command(short_help="Wait until a room has ended, or is at a status.")
@table_options
@click.argument("room", type=room_id)
@click.argument("statuses", type=STATUS_CHOICE, nargs=-1, metavar="[STATUS]...")
@click.option("--timeout", type=duration, metavar="30s", help="Give up after this time; by default never.")
@json_option
def wait(
    url: str, namespace: str, room: int, statuses: tuple[str, ...], timeout: float | None, wants_json: bool
) -> None:
    """Wait until a room is at one of the statuses or a higher one; by default, until it is at Success or Failed.

    Exit status: 0 it is there; 1 the room is absent, was removed, or did not get there in time; 3 it Failed, and
    Failed is not among the statuses.
    """
    goal = [KVPoll[name] for name in statuses]
    with found_table(url, namespace) as (store, replica):
        try:
            status = store.wait(room, *goal, timeout=timeout)
            reason = store.failure_reason(room) if status is KVPoll.Failed else None
        except WaitTimeoutError as error:
            missed = f"did not reach {' or '.join(statuses)}" if statuses else "did not end"
            leave(NOT_FOUND, f"Error: room {room} {missed} within {human(timeout)}: {_at(error.status)}")
        except RoomNotFoundError:
            leave(NOT_FOUND, f"Error: {absent(url, namespace, room)}")
    if wants_json:
        head = as_json.head(namespace, replica)
        as_json.put({**head, "room": room, "status": status.name, "reason": reason})
    else:
        click.echo(f"Room {room} is at {status.name}" + (f": {printable(reason)}" if reason else ""))
    if status is KVPoll.Failed and KVPoll.Failed not in goal:
        raise click.exceptions.Exit(ATTENTION)


def _at(status: KVPoll | None) -> str:
    return "its status is not known" if status is None else f"it is at {status.name}"


def absent(url: str, namespace: str, room: int) -> str:
    """Return that a room is not in a table, and where there may be something of it."""
    what = f"room {room} is not in namespace {namespace!r} (never opened, cleared, expired or evicted)"
    more = f"kvpoll history {room} -n {namespace} tells whether it was here lately"
    other = read_other_side(url, namespace, room)
    if other is not None and other.entry is not None:
        more = f"{other.namespace} has it, at {other.entry.status.name}: use -n {other.namespace}; {more}"
    elif other is not None and other.error:
        more = f"whether {other.namespace} has it is not known: {other.error}\n{more}"
    return f"{what}\n{more}"
