"""Changes that the table does not have yet: in order for each room, and bounded.

The changes of a room that is live, here or in the table, are never dropped. Of lives that began and ended unpublished,
the oldest are dropped first. Those that the table may have, as their opening was asked for and not answered, are
counted apart: the others, which are many in a long outage, do not displace them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from redis_kvpoll.agent.merge import merge_optional

MAX_ENDED_LIVES = 10_000
"""The limit for lives that began and ended unpublished; beyond it, the oldest are dropped. It is also that of those
among them that the table may have, which are counted apart."""


@dataclass(slots=True)
class RoomLife:
    """The unpublished changes of one life of a room."""

    number: int
    is_new: bool = False
    """Whether the table does not know this life yet."""
    request: str = ""
    """SGLang's id of the request that a new life is for, if it is known."""
    status: int | None = None
    reason: str = ""
    length: int | None = None
    is_over: bool = False
    generation: int = 0
    """Its generation in the table, which has it from a former session; 0 if that was not told."""
    may_be_open: bool = False
    """Whether the table may have this new life: its opening was asked for, and there was no answer. A server that was
    held up opens the room later, and only the end of this life clears it."""
    opened_at: float = field(default=0.0, compare=False)
    """When it was opened, in monotonic seconds; 0 if it was told before."""

    def add(self, later: RoomLife) -> None:
        """Merge later changes of the same life into these."""
        self.request = self.request or later.request
        if later.status is not None:
            self.status = merge_optional(self.status, later.status)
        self.reason = self.reason or later.reason
        if later.length is not None:
            self.length = later.length
        self.is_over = self.is_over or later.is_over
        self.generation = self.generation or later.generation
        self.may_be_open = self.may_be_open or later.may_be_open
        self.opened_at = self.opened_at or later.opened_at

    def drop_part(self) -> bool:
        """Drop a part that the table may have refused, so that the rest gets there. False if there is none."""
        if self.length is not None:
            self.length = None
        elif self.reason:
            self.reason = ""
        elif self.is_over and self.status is not None:
            self.status = None
        else:
            return False
        return True


class Outbox:
    """The unpublished lives of rooms. ``wake`` is called with each change that is to be published at once."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self.dropped = 0
        """How many lives never reached the table."""
        self.on_dropped: Callable[[int, int], object] = lambda room, number: None
        self._lives: dict[int, list[RoomLife]] = {}
        """By room: its unpublished lives, the oldest first."""
        self._wake = wake
        self._ended_unpublished: dict[tuple[int, int], None] = {}
        """(room, number) of lives that began and ended unpublished, in the order of their ends."""
        self._ended_unanswered: dict[tuple[int, int], None] = {}
        """The same of those that the table may have."""
        self._changed: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._lives)

    def has(self, room: int) -> bool:
        """Whether a room has unpublished changes."""
        return room in self._lives

    @property
    def has_changes(self) -> bool:
        """Whether a room has changed since the last ``take_changed``."""
        return bool(self._changed)

    def life(self, room: int, number: int) -> RoomLife:
        """Return the unpublished changes of a life, for the caller to add to."""
        lives = self._lives.get(room)
        if not lives:
            life = RoomLife(number)
            self._lives[room] = [life]
        else:
            life = lives[-1]
            if life.number != number:
                life = RoomLife(number)
                lives.append(life)
        self.mark_changed(room)
        return life

    def end(self, room: int, number: int) -> None:
        """Record that a life is over."""
        life = self.life(room, number)
        life.is_over = True
        if life.is_new:
            self._drop_excess(room, life)

    def mark_changed(self, room: int) -> None:
        """Queue the room for the publisher."""
        self._changed[room] = None
        self._wake()

    def take_changed(self) -> list[int]:
        """Return the rooms that changed since the last call."""
        changed, self._changed = self._changed, {}
        return list(changed)

    def rooms(self) -> list[int]:
        """Return all rooms with unpublished changes."""
        return list(self._lives)

    def take(self, room: int) -> RoomLife | None:
        """Return a room's oldest unpublished life, for publishing. Later changes come with the next call."""
        lives = self._lives.get(room)
        if not lives:
            return None
        life = lives[0]
        if len(lives) > 1:
            del lives[0]
        else:
            del self._lives[room]
        self._uncount(room, life)
        return life

    def put_back(self, room: int, life: RoomLife) -> None:
        """Put back a life that could not be published, before later changes."""
        lives = self._lives.setdefault(room, [])
        if lives and lives[0].number == life.number:
            life.add(lives.pop(0))
            self._uncount(room, life)
        lives.insert(0, life)
        self._drop_excess(room, life)

    def _uncount(self, room: int, life: RoomLife) -> None:
        for ended in (self._ended_unpublished, self._ended_unanswered):
            ended.pop((room, life.number), None)

    def _drop_excess(self, room: int, life: RoomLife) -> None:
        if not (life.is_new and life.is_over) or life.generation:
            return  # What the table has is live there until it is told the end.
        ended = self._ended_unanswered if life.may_be_open else self._ended_unpublished
        ended[room, life.number] = None
        if len(ended) > MAX_ENDED_LIVES:
            room, number = next(iter(ended))
            del ended[room, number]
            left = [life for life in self._lives[room] if life.number != number]
            if left:
                self._lives[room] = left
            else:
                del self._lives[room]
                self._changed.pop(room, None)
            self.dropped += 1
            self.on_dropped(room, number)
