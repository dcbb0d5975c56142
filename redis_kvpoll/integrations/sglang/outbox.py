"""What has yet to be said to the table: for each room in order, and bounded. Whoever calls holds the book's lock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from redis_kvpoll.integrations.sglang.merge import merged

LIMIT = 10_000
"""Uses that have begun and ended while the table could not be told: of more, the oldest are never told."""


@dataclass(slots=True)
class Use:
    """What is to be said of one use of a room: how far it has got, why it failed, whether it is over."""

    number: int
    is_new: bool = False
    """Whether the table knows nothing of it yet."""
    status: int | None = None
    reason: str = ""
    length: int | None = None
    is_over: bool = False

    def take_in(self, later: Use) -> None:
        """Say also what came later of the same use."""
        self.status = merged(self.status, later.status)
        self.reason = self.reason or later.reason
        self.length = self.length if later.length is None else later.length
        self.is_over = self.is_over or later.is_over


class Unsaid:
    """The uses of rooms. ``wake`` is called when there is news, and has not been asked for yet."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self.untold = 0
        """Uses that the table will never hear of."""
        self._wake = wake
        self._uses: dict[int, list[Use]] = {}
        self._whole: dict[tuple[int, int], None] = {}
        """Those that have begun and ended, in the order in which they did."""
        self._news: dict[int, None] = {}
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._uses)

    def of(self, room: int, number: int) -> Use:
        """What is to be said of a use, for more to be added."""
        if self._is_closed:
            return Use(number)
        uses = self._uses.setdefault(room, [])
        if not uses or uses[-1].number != number:
            uses.append(Use(number))
        self.tell(room)
        return uses[-1]

    def end(self, room: int, number: int) -> None:
        """A use is over."""
        use = self.of(room, number)
        use.is_over = True
        self._bound(room, use)

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
        self._uses, self._whole, self._news = {}, {}, {}

    def news(self) -> list[int]:
        """The rooms of which there has been news since the last call."""
        rooms, self._news = list(self._news), {}
        return rooms

    def rooms(self) -> list[int]:
        """All of which there is something to say."""
        return list(self._uses)

    def take(self, room: int) -> Use | None:
        """What is to be said next of a room. What comes from now on is said after it."""
        uses = self._uses.get(room)
        if not uses:
            return None
        use = uses.pop(0)
        if not uses:
            del self._uses[room]
        self._whole.pop((room, use.number), None)
        return use

    def put_back(self, room: int, use: Use) -> None:
        """It could not be said now."""
        uses = self._uses.setdefault(room, [])
        if uses and uses[0].number == use.number:
            use.take_in(uses.pop(0))
        uses.insert(0, use)
        self._bound(room, use)

    def _bound(self, room: int, use: Use) -> None:
        if not (use.is_new and use.is_over):
            return
        self._whole[room, use.number] = None
        if len(self._whole) > LIMIT:
            room, number = next(iter(self._whole))
            del self._whole[room, number]
            left = [use for use in self._uses[room] if use.number != number]
            if left:
                self._uses[room] = left
            else:
                del self._uses[room]
            self.untold += 1
