"""Rooms that show a reply whose order among the other facts is unknown, until they are read."""

from __future__ import annotations


class Unverified(dict[int, float]):
    """These rooms, each with the time at which its reply came."""

    __slots__ = ("were_any",)

    def __init__(self) -> None:
        super().__init__()
        self.were_any = False
        """Whether there were any since ``ended`` was last true."""

    def add(self, room: int, now: float) -> None:
        self[room], self.were_any = now, True

    def verify(self, room: int, asked_at: float) -> bool:
        """Whether a read that began at a time counts for a room, which is then verified."""
        if room not in self:
            return True
        if asked_at < self[room]:
            return False
        del self[room]
        return True

    def ended(self) -> bool:
        """Whether the last room has been verified since the last call."""
        if self or not self.were_any:
            return False
        self.were_any = False
        return True
