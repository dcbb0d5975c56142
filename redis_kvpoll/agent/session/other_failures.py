"""Failures in the other table that a client follows, and what it needs to decide which of them concern its rooms.

The client alone knows who serves its rooms. So it is told that a failure waits, and asks when it knows enough. The
room is read only then: a failure counts only if it still holds. An engine clears a room as soon as it has seen it
Failed, so the room may be gone by then: the failure as it was told counts, unless it may be of a former use. That is so
if the client has had the room before, or if the room is open again.

Invariant: no failure since a room's opening is missed, however late the client tells of that room: its agent may be a
new one. A room that may have failed before the follower began, or so long ago that the follower has forgotten it, is
read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from redis_kvpoll.agent import messages
from redis_kvpoll.agent.session.shared_table import OtherTable
from redis_kvpoll.agent.session.told import ToldRooms
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.model import Entry, RoomFailure
from redis_kvpoll.protocol.failures import of_entry
from redis_kvpoll.validation import MAX_ROOM


class OtherFailures:
    """The failures of one client's rooms in the other table. ``send`` sends the client a message."""

    def __init__(self, table: OtherTable, rooms: ToldRooms, send: Callable[[int, bytes], object]) -> None:
        self._table = table
        self._failures = table.failures
        self._rooms = rooms
        self._send = send
        self._unread = rooms.lives()
        """By room: a life in which it may have failed, and the follower would not know."""
        self._unanswered: dict[int, int] = {}
        """By room: a life for which the client has asked, while the room could not be read."""
        self._told: dict[int, tuple[int, RoomFailure]] = {}
        """By room: a life of which the client was told that a failure waits, and that failure."""
        self._reads: set[asyncio.Task[None]] = set()

    def on_failure(self, failure: RoomFailure) -> None:
        """Take note of a failure in the other table."""
        number = self._rooms.current_life(failure.room)
        if number is not None:
            self._tell(number, failure)

    def room_began(self, room: int, number: int, opened_at: float) -> None:
        """Look whether a room has failed since the client opened it. ``tidy`` reads it if the follower cannot know."""
        failure = self._failures.since(room, opened_at)
        if failure is not None:
            self._tell(number, failure)
        elif not self._failures.is_complete_since(opened_at):
            self._unread[room] = number

    def read(self, room: int, number: int) -> None:
        """Read a room whose failure waits for the client, and tell it what it needs."""
        self._start(self._read(room, number))

    def tidy(self) -> None:
        """Forget what waits for lives that are over. Read what the follower cannot know, and what could not be read.

        This waits until the follower is synced: a room that is read while the follower starts afresh could fail after
        that, and before the moment from which the follower reads on.
        """
        self._unread, self._unanswered = self._current(self._unread), self._current(self._unanswered)
        self._told = {room: told for room, told in self._told.items() if self._rooms.current_life(room) == told[0]}
        if not self._failures.synced:
            return
        unanswered, self._unanswered = self._unanswered, {}
        for room, number in unanswered.items():
            self._say_that_one_waits(room, number)
        if self._unread:
            unread, self._unread = self._unread, {}
            self._start(self._read_unread(unread))

    def _current(self, lives: dict[int, int]) -> dict[int, int]:
        """Return those that are open, and that the table can have."""
        found = {room: number for room, number in lives.items() if 0 <= room <= MAX_ROOM}
        return {room: number for room, number in found.items() if self._rooms.current_life(room) == number}

    def _tell(self, number: int, failure: RoomFailure) -> None:
        self._told[failure.room] = number, failure
        self._say_that_one_waits(failure.room, number)

    def _say_that_one_waits(self, room: int, number: int) -> None:
        self._send(messages.FAILURE_WAITS, messages.encode_life(room, number))

    def _start(self, read: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(read)
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)

    async def _read_unread(self, unread: dict[int, int]) -> None:
        try:
            entries = await self._table.store.entries(unread)
        except KVPollError:
            self._unread = unread | self._unread
            return
        found = {room: entry for room, entry in entries.items() if isinstance(entry, Entry)}
        for room, number in self._current(unread).items():
            if room in found and (failure := of_entry(found[room])) is not None:
                self._tell(number, failure)

    async def _read(self, room: int, number: int) -> None:
        try:
            entry = await self._table.store.entry(room)
            failure = self._last_told(room, number) if entry is None else of_entry(entry)
            if failure is None:
                return
            owners = [] if failure.by else await self._table.owners.read()
        except KVPollError:
            self._unanswered[room] = number
            return
        words = [room, number, failure.by, failure.owner, failure.reason, owners]
        self._send(messages.FAILURE_READ, messages.encode_words(*words))

    def _last_told(self, room: int, number: int) -> RoomFailure | None:
        """Return the failure of a room that is gone; None if it may be of a former use."""
        told_for, failure = self._told.get(room, (None, None))
        return failure if told_for == number and not self._rooms.has_had(room) else None
