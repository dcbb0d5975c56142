"""The changes of one owner's rooms, for ``kvpoll tail --owner``.

Invariant: the feed tells whose a room is by the change that opened it, also of a room that has gone since. A room's key
is read only where the feed does not tell: of a room whose opening was not passed, and of a rank that was not met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import click

from redis_kvpoll.cli.selection import SAME_OPENING, Owners
from redis_kvpoll.errors import StoreUnavailableError
from redis_kvpoll.model import Entry
from redis_kvpoll.protocol.feed import Change, FeedGap

if TYPE_CHECKING:
    from redis_kvpoll.sync.store import StatusStore

MOST_KNOWN = 100_000
"""Rooms whose owner a tail remembers."""
LEFT_OUT = "left out: changes of rooms that have gone, and whose owner the feed does not name any more"


def changes_of_owner(
    changes: Iterator[Change | FeedGap],
    store: StatusStore,
    text: str,
    is_wanted: Callable[[Change], bool] = lambda _: True,
    before: Iterable[Change | FeedGap] = (),
) -> Iterator[Change | FeedGap]:
    """The wanted changes of the rooms of owners with a text in their names, and every gap.

    ``before`` is what came before the first change, once that is read.
    """
    rooms = _Rooms(store, text)
    for number, change in enumerate(changes):
        if number == 0:
            for passed in before:
                rooms.pass_by(passed)
        rooms.pass_by(change)
        if isinstance(change, FeedGap) or (is_wanted(change) and rooms.have(change)):
            yield change


class _Life(NamedTuple):
    """What is known of a room since its opening."""

    is_theirs: bool
    ranks: set[int | None]
    """The ranks whose owner is known; another may have another owner."""


class _Rooms:
    """The rooms that the feed tells of, and whether they are those owners'."""

    def __init__(self, store: StatusStore, text: str) -> None:
        self._store, self._owners = store, Owners(store, text)
        self._known: dict[int, _Life] = {}
        self._has_told = False

    def pass_by(self, change: Change | FeedGap) -> None:
        """Learn what a change tells."""
        if isinstance(change, FeedGap):
            self._known.clear()  # a room may have ended unseen, and its id be another's
        elif change.opens:
            self._remember(change, _Life(self._owners.are(change.owner), {change.rank}))

    def have(self, change: Change) -> bool:
        """Whether the room of the change that was passed last is theirs, or its reason their end."""
        if self._owners.ended(change.reason):
            return True
        life = self._known.get(change.room)
        if life is None or not (life.is_theirs or change.rank in life.ranks):
            try:
                is_theirs = self._read(change)
            except StoreUnavailableError:  # rather too many than one too few
                return True
            life = _Life(is_theirs, {change.rank, *(life.ranks if life else ())})
            self._remember(change, life)
        return life.is_theirs

    def _read(self, change: Change) -> bool:
        """Whether the room is theirs by its key. It may have gone, or be of a later opening."""
        entry = self._store.entries([change.room]).get(change.room)
        is_gone = entry is None or (isinstance(entry, Entry) and entry.opened_at - SAME_OPENING > change.at)
        if is_gone and not self._has_told:
            click.echo(LEFT_OUT, err=True)
            self._has_told = True
        return not is_gone and self._owners.have(entry)

    def _remember(self, change: Change, life: _Life) -> None:
        self._known.pop(change.room, None)
        self._known[change.room] = life  # as the latest
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]
