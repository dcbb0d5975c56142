"""What one client has told of its rooms: their current lives, and the changes that the table does not have yet. No I/O.

Invariant: a life that was over is never current again, whatever comes late. The changes of a life stay here, merged and
bounded, until the publisher takes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from redis_kvpoll.agent.merge import FAILED, merge_optional
from redis_kvpoll.agent.outbox import Outbox, RoomLife
from redis_kvpoll.agent.tombstones import Tombstones


class ToldRooms:
    """The rooms of one client. ``wake`` is called when there are changes to publish.

    ``deliver_reason`` is called with a room and another rank's reason, if the client waits for it. ``began`` is called
    with a room that is open now, its life, and since when, in monotonic seconds.
    """

    def __init__(
        self,
        wake: Callable[[], object],
        deliver_reason: Callable[[int, str], object],
        began: Callable[[int, int, float], object] = lambda room, number, moment: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.awaiting_reason: set[int] = set()
        self.received = 0
        """How many changes have come."""
        self.outbox = Outbox(wake)
        self._deliver_reason = deliver_reason
        self._began = began
        self._lives: dict[int, int] = {}
        self._statuses: dict[int, int | None] = {}
        self._over: Tombstones[int] = Tombstones(clock)
        """By room: the last life that was over."""

    def change(self, room: int, change: RoomLife) -> None:
        """Take note of changes of a life, for the table."""
        self.received += 1
        number = change.number
        if not self._begin(room, number, change.opened_at):
            return
        life = self.outbox.life(room, number)
        life.is_new = life.is_new or change.is_new
        life.add(change)
        if change.is_over:
            self.outbox.end(room, number)
            self._end(room, number)
        elif self._lives[room] == number:
            self._statuses[room] = merge_optional(self._statuses.get(room), change.status)

    def hold(self, room: int, number: int, is_over: bool, opened_at: float) -> None:
        """Take note of a life that is not to be in the table yet, or of its end."""
        if self._begin(room, number, opened_at) and is_over:
            self._end(room, number)

    def want_reason(self, room: int, is_wanted: bool) -> None:
        """Take note that a thread of the client waits for another rank's reason, or no longer."""
        if is_wanted:
            self.awaiting_reason.add(room)
            self.outbox.mark_changed(room)
        else:
            self.awaiting_reason.discard(room)

    def deliver_reason(self, room: int, reason: str) -> None:
        """Give another rank's reason to the client."""
        self.awaiting_reason.discard(room)
        self._deliver_reason(room, reason)

    def rooms(self) -> list[int]:
        """Return the rooms that are open in the client."""
        return list(self._lives)

    def lives(self) -> dict[int, int]:
        """Return the current life of each room that is open in the client."""
        return self._lives.copy()

    def current_life(self, room: int) -> int | None:
        """Return the number of a room's current life; None if the room is not open."""
        return self._lives.get(room)

    def has_had(self, room: int) -> bool:
        """Return whether a former life of a room was over in the last minutes."""
        return room in self._over

    def is_failed(self, room: int) -> bool:
        """Return whether a room is Failed, as the client has told it."""
        return self._statuses.get(room) == FAILED

    def is_relevant(self, room: int) -> bool:
        """Return whether to follow a room in the table: it is open, or other ranks may not have cleared it yet."""
        return room in self._lives or room in self._over

    def _begin(self, room: int, number: int, opened_at: float) -> bool:
        """Make a life the current one, unless a later one is; return False if it is over."""
        if number <= (self._over.get(room) or 0):
            return False
        if number > self._lives.get(room, 0):
            self._lives[room] = number
            self._statuses.pop(room, None)
            self._began(room, number, opened_at)
        return True

    def _end(self, room: int, number: int) -> None:
        if self._lives.get(room) == number:
            del self._lives[room]
            self._statuses.pop(room, None)
        self._over.add(room, number)
