"""Which life each open room has. Each opening of a room begins one, with a new number. No I/O."""

from __future__ import annotations

import itertools

from redis_kvpoll.agent.life import Life


class RoomLives(dict[int, Life]):
    """By room: its current life. A dict, since each step of SGLang's looks a life up."""

    __slots__ = ("numbers",)

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)
        """Of the lives that are to come."""

    def number(self, room: int) -> int | None:
        """Return the number of a room's current life; None if the room is not open."""
        life = self.get(room)
        return None if life is None else life.number
