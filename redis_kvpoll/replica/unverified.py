"""Rooms that are to be read: no entry of the feed says what they are."""

from __future__ import annotations


class Unverified(dict[int, float]):
    """Rooms that show a reply whose order among the other facts is unknown, each with the time at which it came."""

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


class Uncertain(dict[int, int]):
    """Rooms whose state is unknown since an entry of the feed, each with the id of that entry."""

    __slots__ = ()

    def verify(self, room: int, at: int) -> None:
        """A room was read as of an id."""
        if self and self.get(room, at + 1) <= at:
            del self[room]
