"""Servers of the model of data loss: a history, the feed that is left of it, and the rooms that follow from it.

A server that is promoted or restarted has a prefix of another one's history. Only what the rule of loss depends on is
modelled: one shard, a few rooms, statuses as numbers, one entry of the feed per change.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple, Protocol

Generation = tuple[int, int]
"""The clock's time, and a number that no other generation has."""


OPENED, REPLAYED = 1, 2


class Entry(NamedTuple):
    """One change of a room."""

    id: int
    """Its feed id; 0 for an expiry, which leaves no entry."""
    room: int
    generation: Generation
    status: int
    """0 for a room that is gone."""
    opens: int = 0
    """OPENED or REPLAYED, if it creates the room."""

    @property
    def mark(self) -> Mark:
        """What the feed has of it."""
        return Mark(self.id, self.room, self.status, self.generation if self.opens else (0, 0))


class Mark(NamedTuple):
    """An entry as a store remembers it: its id and its words."""

    id: int
    room: int
    status: int
    generation: Generation = (0, 0)
    """Of an entry that creates a room."""


class Room(NamedTuple):
    generation: Generation
    status: int
    opened: Mark
    replayed: bool = False


SEED = Entry(1, -1, (0, 0), 1, OPENED)
"""The first change of every history: the epoch's."""


class Server(NamedTuple):
    log: tuple[Entry, ...] = (SEED,)
    cut: int = 0
    """How many changes the feed no longer has."""
    deleted: bool = False
    """Whether the feed was deleted at ``cut``, and its last id forgotten."""
    behind: bool = False
    """Whether the clock is behind all ids, so that each new id is the last one plus 1."""

    def room(self, room: int) -> Room | None:
        there = _rooms(self.log).get(room)
        return there if there and there.status else None

    def tombstone(self, room: int) -> Generation | None:
        """The generation that a replay had created here, and that was cleared since."""
        there = _rooms(self.log).get(room)
        return there.generation if there and not there.status else None

    @property
    def entries(self) -> list[Entry]:
        return [entry for entry in self.log[self.cut :] if entry.id]

    @property
    def words(self) -> list[Mark]:
        return [entry.mark for entry in self.entries]

    @property
    def tail(self) -> Mark:
        return self.entries[-1].mark

    def is_below_first(self, mark: Mark) -> bool:
        """Whether the feed no longer reaches back to this id."""
        entries = self.entries
        return not entries or mark.id < entries[0].id

    def next_generation(self, now: int, seen: Generation) -> Generation:
        last = max([seen, *[entry.generation for entry in self.log]])
        return (last[0] + 1 if self.behind or last[0] >= now else now), now

    def append(self, now: int, room: int, generation: Generation, status: int, opens: int = 0) -> Server:
        ids = [entry.id for entry in (self.log[self.cut :] if self.deleted else self.log)]
        last = max(ids, default=0)
        entry_id = last + 1 if self.behind or last >= now else now
        return self._replace(log=(*self.log, Entry(entry_id, room, generation, status, opens)))

    def expire(self, room: int, generation: Generation) -> Server:
        return self._replace(log=(*self.log, Entry(0, room, generation, 0)))

    def promoted(self, length: int) -> Server:
        """The server that has the first so many changes."""
        return Server(self.log[:length], min(self.cut, length), self.deleted and length >= self.cut, self.behind)


class Change(Protocol):
    """What a history says of one change of a room."""

    @property
    def room(self) -> int: ...
    @property
    def generation(self) -> Any: ...
    @property
    def status(self) -> int:
        """0 for a room that is gone."""

    @property
    def opens(self) -> int: ...


def has_ended(history: Iterable[Change], room: int, generation: Any) -> bool:
    """Whether a generation was here and is over: by a clear, an expiry, or a later one in its place."""
    ours = [change for change in history if change.room == room]
    opened = [at for at, change in enumerate(ours) if change.opens and change.generation == generation]
    return bool(opened) and any(
        not change.status or (change.opens and change.generation > generation) for change in ours[opened[-1] :]
    )


def is_superseded(history: Iterable[Change], room: int, generation: Any) -> bool:
    """Whether a later generation of the room was here."""
    return any(change.room == room and change.generation > generation for change in history)


@cache
def _rooms(log: tuple[Entry, ...]) -> dict[int, Room]:
    if not log:
        return {}
    rooms, last = dict(_rooms(log[:-1])), log[-1]
    if not last.status:
        there = rooms.pop(last.room)
        if last.id and there.replayed:
            rooms[last.room] = there._replace(status=0)
    elif last.opens:
        rooms[last.room] = Room(last.generation, last.status, last.mark, last.opens == REPLAYED)
    else:
        rooms[last.room] = rooms[last.room]._replace(status=last.status)
    return rooms
