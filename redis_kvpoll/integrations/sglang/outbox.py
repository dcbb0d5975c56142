"""What the table has yet to be sent: in order for each room, and bounded. The caller holds the registry's lock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from redis_kvpoll.integrations.sglang.merge import merged

LIMIT = 10_000
"""Uses that have begun and ended while the table could not be told: of more, the oldest are never told."""


@dataclass(slots=True)
class RoomLife:
    """What is to be said of one use of a room: how far it has got, why it failed, whether it is over."""

    number: int
    is_new: bool = False
    """Whether the table knows nothing of it yet."""
    status: int | None = None
    reason: str = ""
    length: int | None = None
    is_over: bool = False

    def take_in(self, later: RoomLife) -> None:
        """Say also what came later of the same life."""
        self.status = merged(self.status, later.status)
        self.reason = self.reason or later.reason
        self.length = self.length if later.length is None else later.length
        self.is_over = self.is_over or later.is_over


class Outbox:
    """The lives of rooms. ``wake`` is called when there is news, and has not been asked for yet."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self.dropped = 0
        """Uses that the table will never hear of."""
        self._wake = wake
        self._lives: dict[int, list[RoomLife]] = {}
        self._whole: dict[tuple[int, int], None] = {}
        """Those that have begun and ended, in the order in which they did."""
        self._news: dict[int, None] = {}
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._lives)

    def of(self, room: int, number: int) -> RoomLife:
        """What is to be said of a life, for more to be added."""
        if self._is_closed:
            return RoomLife(number)
        lives = self._lives.setdefault(room, [])
        if not lives or lives[-1].number != number:
            lives.append(RoomLife(number))
        self.tell(room)
        return lives[-1]

    def end(self, room: int, number: int) -> None:
        """A use is over."""
        life = self.of(room, number)
        life.is_over = True
        self._bound(room, life)

    def tell(self, room: int) -> None:
        """There is news of a room."""
        if self._is_closed:
            return
        if not self._news:
            self._wake()
        self._news[room] = None

    def close(self) -> None:
        """Nobody will say anything any more."""
        self._is_closed = True
        self._lives, self._whole, self._news = {}, {}, {}

    def news(self) -> list[int]:
        """The rooms of which there has been news since the last call."""
        rooms, self._news = list(self._news), {}
        return rooms

    def rooms(self) -> list[int]:
        """All of which there is something to say."""
        return list(self._lives)

    def take(self, room: int) -> RoomLife | None:
        """What is to be said next of a room. What comes from now on is said after it."""
        lives = self._lives.get(room)
        if not lives:
            return None
        life = lives.pop(0)
        if not lives:
            del self._lives[room]
        self._whole.pop((room, life.number), None)
        return life

    def put_back(self, room: int, life: RoomLife) -> None:
        """It could not be said now."""
        lives = self._lives.setdefault(room, [])
        if lives and lives[0].number == life.number:
            life.take_in(lives.pop(0))
        lives.insert(0, life)
        self._bound(room, life)

    def _bound(self, room: int, life: RoomLife) -> None:
        if not (life.is_new and life.is_over):
            return
        self._whole[room, life.number] = None
        if len(self._whole) > LIMIT:
            room, number = next(iter(self._whole))
            del self._whole[room, number]
            left = [life for life in self._lives[room] if life.number != number]
            if left:
                self._lives[room] = left
            else:
                del self._lives[room]
            self.dropped += 1
