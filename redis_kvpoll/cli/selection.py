"""Which rooms of a table a command is about: the options of ``ls``, and of ``abort`` and ``clear`` for many rooms.

Invariant: the table is read by SCAN and a light read of 1,000 rooms at a time. Requests and reasons, which cost more,
are read only of rooms that match otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import click

from redis_kvpoll.cli.clock import ServerClock
from redis_kvpoll.cli.durations import duration
from redis_kvpoll.errors import CorruptEntryError
from redis_kvpoll.model import Entry, KVPoll, RoomRow
from redis_kvpoll.protocol.lease_commands import owner_in

if TYPE_CHECKING:
    from redis_kvpoll.sync.store import StatusStore

F = TypeVar("F", bound=Callable[..., Any])

STUCK = "60s"
EXPIRING = "60s"
BATCH = 1000
SAME_OPENING = 0.0015
"""Seconds: a row and an entry have the time of one opening to the millisecond."""
STATUS_CHOICE = click.Choice([s.name for s in KVPoll], case_sensitive=False)


def text_part(text: str) -> str:
    """A text to look for. Every room has the empty one: a variable that a script has not set would select them all."""
    if not text.strip():
        raise click.BadParameter("it is empty, and would match everything")
    return text


class Found(NamedTuple):
    """One room, as far as it was read."""

    row: RoomRow
    entry: Entry | CorruptEntryError | None = None


class Selection(NamedTuple):
    """What a room must be; None and False ask for nothing."""

    status: tuple[str, ...] = ()
    stuck: float | None = None
    expiring: float | None = None
    older_than: float | None = None
    owner: str | None = None
    request: str | None = None
    reason: str | None = None

    @property
    def is_any(self) -> bool:
        """Whether every room matches."""
        return self == Selection()

    @property
    def needs_entries(self) -> bool:
        return self.request is not None or self.reason is not None or self.owner is not None

    def takes(self, row: RoomRow, now: float) -> bool:
        """Whether a room matches at the server's ``now``, as far as its row tells; its owner is another matter."""
        is_live = row.status is not None and not row.status.is_terminal
        age = now - row.since
        if self.status and (row.status is None or row.status.name.lower() not in map(str.lower, self.status)):
            return False
        if self.stuck is not None and not (is_live and age > self.stuck):
            return False
        if self.expiring is not None and not (is_live and row.ttl <= self.expiring):
            return False
        return self.older_than is None or (row.status is not None and age > self.older_than)

    def takes_entry(self, entry: Entry | CorruptEntryError | None) -> bool:
        """Whether a room matches in what only its entry has."""
        if not isinstance(entry, Entry):
            return False
        return (self.request is None or self.request in (entry.request or "")) and (
            self.reason is None or self.reason.lower() in (entry.reason or "").lower()
        )


def selection_options(reason_option: str = "--reason") -> Callable[[F], F]:
    """Add the options that select rooms; the command gets a Selection as ``wanted``."""
    options = (
        click.option("--status", type=STATUS_CHOICE, multiple=True, help="Rooms at this status; may be repeated."),
        _duration_or_default("--stuck", STUCK, "Live rooms without a change for this long."),
        _duration_or_default("--expiring", EXPIRING, "Live rooms whose TTL ends within this time."),
        click.option("--older-than", type=duration, metavar="5m", help="Rooms whose last change is older than this."),
        click.option(
            "--owner",
            type=text_part,
            metavar="TEXT",
            help="Rooms that an owner with TEXT anywhere in its name opened or has a part in, or that its end failed. "
            "End an address with its colon: @10.0.0.1:",
        ),
        click.option("--request", type=text_part, metavar="TEXT", help="Rooms whose request contains TEXT."),
        click.option(
            reason_option,
            "reason_part",
            type=text_part,
            metavar="TEXT",
            help="Rooms whose failure reason contains TEXT.",
        ),
    )

    def add(command: F) -> F:
        @functools.wraps(command)
        def selecting(*args: Any, **given: Any) -> Any:
            names = ("status", "stuck", "expiring", "older_than", "owner", "request")
            wanted = Selection(**{name: given.pop(name) for name in names}, reason=given.pop("reason_part"))
            return command(*args, wanted=wanted, **given)

        wrapped: Any = selecting
        for option in reversed(options):
            wrapped = option(wrapped)
        return cast(F, wrapped)

    return add


def _duration_or_default(name: str, default: str, help_text: str) -> Callable[[F], F]:
    """Return an option that may have a value or stand alone."""
    return click.option(name, type=duration, is_flag=False, flag_value=default, metavar=f"[={default}]", help=help_text)


def select(store: StatusStore, wanted: Selection, clock: ServerClock) -> Iterator[tuple[Found, bool]]:
    """Yield every room of the table, and whether it matches."""
    rows = iter(store.rows())
    owners = None if wanted.owner is None else Owners(store, wanted.owner)
    while batch := list(islice(rows, BATCH)):
        now = clock.now()
        taken = {row.room for row in batch if wanted.takes(row, now)}
        entries = store.entries(taken) if taken and wanted.needs_entries else {}
        for row in batch:
            entry = entries.get(row.room)
            is_taken = row.room in taken and (not wanted.needs_entries or wanted.takes_entry(entry))
            yield Found(row, entry), is_taken and (owners is None or owners.have(entry))


class Recheck:
    """Tells which of the rooms that a selection has found match still, just before they are changed."""

    def __init__(self, store: StatusStore, wanted: Selection, clock: ServerClock) -> None:
        self._store, self._wanted, self._clock = store, wanted, clock
        self._owners = None if wanted.owner is None else Owners(store, wanted.owner)

    def matching(self, found: list[Found]) -> list[Entry]:
        """Return what they are now, without those that are gone, were opened anew, or do not match any more."""
        entries = self._store.entries(each.row.room for each in found)
        now = self._clock.now()
        pairs = ((each, entries.get(each.row.room)) for each in found)
        return [entry for each, entry in pairs if isinstance(entry, Entry) and self._matches(each, entry, now)]

    def _matches(self, found: Found, entry: Entry, now: float) -> bool:
        if abs(entry.opened_at - found.row.opened_at) > SAME_OPENING:
            return False
        if isinstance(found.entry, Entry) and found.entry.generation != entry.generation:
            return False
        row = RoomRow(entry.room, entry.status, entry.updated_at, entry.opened_at, entry.ttl, entry.owner)
        return (
            self._wanted.takes(row, now)
            and self._wanted.takes_entry(entry)
            and (self._owners is None or self._owners.have(entry))
        )


class Owners:
    """The owners whose names contain a text."""

    def __init__(self, store: StatusStore, text: str) -> None:
        self._store, self._text = store, text
        self._incarnations: dict[int, bool] = {}
        """Of each lease that is known, whether it is one of theirs."""

    def have(self, entry: Entry | CorruptEntryError | None) -> bool:
        """Whether one of them has opened a room, takes part in it, or failed it by its end."""
        if not isinstance(entry, Entry):
            return False
        if self.are(entry.owner) or self.ended(entry.reason):
            return True
        return any(map(self._has, entry.rank_leases.values()))

    def are(self, name: str | None) -> bool:
        """Whether it is the name of one of them."""
        return self._text in (name or "")

    def ended(self, reason: str | None) -> bool:
        """Whether a reason is the end of one of them."""
        return self._text in owner_in(reason or "")

    def _has(self, incarnation: int) -> bool:
        if incarnation not in self._incarnations:
            for owner in self._store.owners():
                self._incarnations[owner.incarnation] = self._text in owner.name
            self._incarnations.setdefault(incarnation, False)
        return self._incarnations[incarnation]


def with_entries(store: StatusStore, found: list[Found]) -> list[Found]:
    """Read what is not known yet of each room. A room that is gone meanwhile is left out."""
    entries: dict[int, Entry | CorruptEntryError] = {}
    missing = [each.row.room for each in found if each.entry is None]
    for at in range(0, len(missing), BATCH):
        entries |= store.entries(missing[at : at + BATCH])
    known = (each if each.entry is not None else Found(each.row, entries.get(each.row.room)) for each in found)
    return [each for each in known if each.entry is not None]
