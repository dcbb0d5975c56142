"""``kvpoll abort`` and ``clear``: one room, or all that match.

Invariant: many rooms are changed only after they were counted and the caller has agreed, at most --limit of them, in
steps, so that no call holds the server up. A room is read again just before it is changed: one that was opened anew
since it was counted, or does not match any more, stays as it is. A clear removes only the generation that was read. An
abort has no such fence: what happens to a room in the one round trip between its read and its abort goes unseen.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import click

from redis_kvpoll.cli import as_json
from redis_kvpoll.cli.clock import ServerClock
from redis_kvpoll.cli.commands.listing import print_found
from redis_kvpoll.cli.commands.room import absent
from redis_kvpoll.cli.exits import NOT_FOUND, leave
from redis_kvpoll.cli.found import found_table
from redis_kvpoll.cli.options import json_option, room_id, table_options
from redis_kvpoll.cli.other_side import say_where_live
from redis_kvpoll.cli.selection import Found, Recheck, Selection, select, selection_options, with_entries
from redis_kvpoll.errors import CorruptEntryError, KVPollError, printable
from redis_kvpoll.model import KVPoll, Outcome
from redis_kvpoll.statistics.reasons import by_hand

if TYPE_CHECKING:
    from redis_kvpoll.doctor.replica import ReplicaLink
    from redis_kvpoll.sync.store import StatusStore

F = TypeVar("F", bound=Callable[..., Any])
Change = Callable[["StatusStore", Recheck, list[Found]], Iterator[list[int]]]
"""Changes the rooms that match still, and yields after each call those that it has changed."""

LIMIT = 1000
MAX_LIMIT = 1_000_000
STEP = 100
"""Rooms between two pauses."""
PAUSE = 0.02
SHOWN = 20
REASON = "Aborted by hand."


def bulk_options(command: F) -> F:
    """Add what guards a change of many rooms."""
    options = (
        click.option(
            "--limit", type=click.IntRange(1, MAX_LIMIT), default=LIMIT, show_default=True, help="Refuse more rooms."
        ),
        click.option("--dry-run", is_flag=True, help="Show the rooms, and change none."),
        click.option("--yes", is_flag=True, help="Do not ask."),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


@click.command(short_help="Fail one room, or all that match, with all their ranks.")
@table_options
@click.argument("room", type=room_id, required=False)
@click.option(
    "--reason",
    default=REASON,
    show_default=True,
    metavar="TEXT",
    help="The reason that is recorded, after 'Aborted by hand: ' unless it counts as an abort by itself.",
)
@selection_options(reason_option="--with-reason")
@bulk_options
@json_option
def abort(url: str, namespace: str, room: int | None, reason: str, wanted: Selection, **given: Any) -> None:
    """Fail one room, or all that the options select, with all their ranks.

    Without ROOM, it shows how many rooms match and asks: kvpoll abort --owner @10.0.0.2: --stuck.
    """
    if room is None:
        _change_many(url, namespace, wanted, "abort", functools.partial(_abort_some, by_hand(reason)), **given)
        return
    _check_one(wanted)
    if given["dry_run"]:
        _show_one(url, namespace, room, "abort", given["wants_json"])
        return
    with found_table(url, namespace, "abort") as (store, replica):
        _refuse_abort(room, _status(store, room))
        outcome = store.abort(room, by_hand(reason)).outcome
        recorded = _recorded(store, room)
    if outcome is Outcome.SKIPPED:
        raise click.ClickException(absent(url, namespace, room))
    is_new = outcome is Outcome.FAILED
    if given["wants_json"]:
        _put(namespace, int(is_new), [room], replica)
        return
    state = "is now Failed" if is_new else "was already Failed"
    click.echo(f"Room {room} {state}: {printable(recorded)}")
    say_where_live(url, namespace, [room], is_new)


@click.command(short_help="Remove one room, or all that match, from the table.")
@table_options
@click.argument("room", type=room_id, required=False)
@selection_options(reason_option="--reason")
@bulk_options
@json_option
def clear(url: str, namespace: str, room: int | None, wanted: Selection, **given: Any) -> None:
    """Remove one room, or all that the options select, from the table.

    Without ROOM, it shows how many rooms match and asks: kvpoll clear --status Failed --older-than 30s.
    """
    if room is None:
        _change_many(url, namespace, wanted, "clear", _clear_some, **given)
        return
    _check_one(wanted)
    if given["dry_run"]:
        _show_one(url, namespace, room, "clear", given["wants_json"])
        return
    with found_table(url, namespace, "clear") as (store, replica):
        try:
            entry = store.entry(room)
            before = entry.status.name if entry else None
        except CorruptEntryError as error:
            before = f"corrupt: it held {printable(error.found)}"
        cleared = store.clear(room)
    if before is None and cleared is None:
        raise click.ClickException(absent(url, namespace, room))
    if given["wants_json"]:
        _put(namespace, 1, [room], replica)
    else:
        click.echo(f"Cleared room {room}; it was {cleared.name if cleared is not None else before}.")


def _put(namespace: str, changed: int, rooms: list[int], replica: ReplicaLink | None) -> None:
    head = as_json.head(namespace, replica)
    as_json.put({**head, "matching": len(rooms), "changed": changed, "rooms": rooms})


def _check_one(wanted: Selection) -> None:
    if not wanted.is_any:
        raise click.UsageError("give ROOM, or options that select rooms, not both")


def _show_one(url: str, namespace: str, room: int, operation: str, wants_json: bool) -> None:
    """Say what would be done to a room, and change nothing."""
    with found_table(url, namespace) as (store, replica):
        status = _status(store, room)
        if operation == "abort":
            _refuse_abort(room, status)
    if status is None:
        raise click.ClickException(absent(url, namespace, room))
    if wants_json:
        _put(namespace, 0, [room], replica)
        return
    what = "remove it" if operation == "clear" else "fail it" if status is not KVPoll.Failed else "change nothing"
    state = f"at {status.name}" if isinstance(status, KVPoll) else "corrupt"
    click.echo(f"Room {room} is {state}: {operation} would {what}.")


def _status(store: StatusStore, room: int) -> KVPoll | CorruptEntryError | None:
    try:
        return store.get(room)
    except CorruptEntryError as error:
        return error


def _recorded(store: StatusStore, room: int) -> str:
    """The reason of a room that has failed, which may be corrupt otherwise."""
    try:
        return store.failure_reason(room) or "no reason was recorded"
    except CorruptEntryError as error:
        return f"its reason was not read, as it is corrupt: it holds {error.found}"


def _refuse_abort(room: int, status: object) -> None:
    """Refuse a Success, which ``store.abort`` would hide, and what that refuses: an unknown status counts as live."""
    if status is KVPoll.Success:
        raise click.ClickException(f"room {room} is at Success: abort fails live rooms only")
    if isinstance(status, CorruptEntryError) and not status.found.startswith("status "):
        raise CorruptEntryError(room, "abort", status.found)


def _abort_some(reason: str, store: StatusStore, recheck: Recheck, found: list[Found]) -> Iterator[list[int]]:
    for each in found:
        for entry in recheck.matching([each]):
            if _may_change("abort", entry.status):
                yield [entry.room] if store.abort(entry.room, reason).outcome is Outcome.FAILED else []


def _clear_some(store: StatusStore, recheck: Recheck, found: list[Found]) -> Iterator[list[int]]:
    from redis_kvpoll.sync.operators import clear_generations

    updates = clear_generations(store, {entry.room: entry.generation for entry in recheck.matching(found)})
    yield [room for room, update in updates.items() if update.outcome is Outcome.CLEARED]


def _change_many(
    url: str,
    namespace: str,
    wanted: Selection,
    operation: str,
    change: Change,
    limit: int,
    dry_run: bool,
    yes: bool,
    wants_json: bool,
) -> None:
    if wanted.is_any:
        raise click.UsageError("give ROOM, or options that select rooms: --owner, --status, --older-than, …")
    if wanted.status and not any(_may_change(operation, KVPoll[name]) for name in wanted.status):
        raise click.UsageError("abort fails live rooms only: give --status a live one, or none")
    clock = ServerClock(url)
    with found_table(url, namespace, "" if dry_run else operation) as (store, replica):
        found = list(islice(_matching(store, wanted, operation, clock), limit + 1))
        if len(found) > limit:
            leave(NOT_FOUND, f"Error: more than {limit:,} rooms match: narrow the options, or raise --limit")
        rooms = [each.row.room for each in found]
        if not dry_run and rooms and not yes:
            _ask(operation, store, found, clock, wants_json)
        shown = with_entries(store, found) if dry_run and not wants_json else []
        changed: list[int] = []
        if not dry_run:
            changed = _change_in_steps(store, found, Recheck(store, wanted, clock), operation, change)
    if not dry_run and (skipped := len(found) - len(changed)):
        click.echo(f"skipped {_rooms(skipped)} that changed in the meantime", err=True)
    if wants_json:
        _put(namespace, len(changed), rooms, replica)
    elif dry_run:
        print_found(shown, clock.now())
        click.echo(f"{operation} would change {_rooms(len(rooms))}", err=True)
    else:
        click.echo(f"{_done(operation)} {_rooms(len(changed))} of {len(rooms):,} that matched.")
        if operation == "abort":
            say_where_live(url, namespace, changed)


def _matching(store: StatusStore, wanted: Selection, operation: str, clock: ServerClock) -> Iterator[Found]:
    for found, is_taken in select(store, wanted, clock):
        if is_taken and _may_change(operation, found.row.status):
            yield found


def _may_change(operation: str, status: KVPoll | None) -> bool:
    """Whether a room is left to change: what has Failed cannot be failed, and to abort a Success would hide that."""
    return not (operation == "abort" and status is not None and status.is_terminal)


def _ask(operation: str, store: StatusStore, found: list[Found], clock: ServerClock, wants_json: bool) -> None:
    if not sys.stdin.isatty():
        leave(NOT_FOUND, f"Error: {_rooms(len(found))} match: confirm with --yes, or look with --dry-run")
    with redirect_stdout(sys.stderr if wants_json else sys.stdout):  # with --json, stdout has nothing but JSON
        print_found(with_entries(store, found[:SHOWN]), clock.now())
    if len(found) > SHOWN:
        click.echo(f"and {len(found) - SHOWN:,} more", err=True)
    if not click.confirm(f"{operation} {_rooms(len(found))}?", err=True):
        leave(NOT_FOUND, "nothing was changed")


def _change_in_steps(
    store: StatusStore,
    found: list[Found],
    recheck: Recheck,
    operation: str,
    change: Change,
) -> list[int]:
    """Return the rooms that were changed; before it raises, stderr has their number."""
    changed: list[int] = []
    try:
        for at in range(0, len(found), STEP):
            if at:
                time.sleep(PAUSE)
            for rooms in change(store, recheck, found[at : at + STEP]):
                changed += rooms
    except (KVPollError, KeyboardInterrupt):
        more = "; the last call may have changed more"
        click.echo(f"{_done(operation)} {_rooms(len(changed))} of {len(found):,} that matched{more}", err=True)
        raise
    return changed


def _done(operation: str) -> str:
    return "Failed" if operation == "abort" else "Cleared"


def _rooms(count: int) -> str:
    return f"{count:,} room{'' if count == 1 else 's'}"
