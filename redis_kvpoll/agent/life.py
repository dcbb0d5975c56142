"""One life of a room, as the process that has it keeps it: what its session is told, and which of that is unsent."""

from __future__ import annotations

IS_NEW, IS_OVER, HAS_LENGTH, HAS_STATUS, HAS_REASON = 1, 2, 4, 8, 16
"""The parts of a life, as bits. The first three are in a message as they are here."""


class Life:
    """One life of a room: from its opening until the table has its end. ``opened_at``: in monotonic seconds."""

    __slots__ = (
        "generation",
        "head",
        "is_over",
        "length",
        "number",
        "opened_at",
        "reason",
        "request",
        "room",
        "status",
        "told_length",
        "unsent",
    )

    def __init__(self, room: int, number: int, opened_at: float = 0.0) -> None:
        self.room = room
        self.number = number
        self.opened_at = opened_at
        self.request = ""
        """SGLang's id of the request that it is for, if it is known."""
        self.status: int | None = None
        """As the table is to have it; None if it is not to have the life yet."""
        self.reason = ""
        self.length: int | None = None
        self.told_length: int | None = None
        """The length that the present session was told."""
        self.is_over = False
        self.generation = 0
        """Its generation in the table; 0 if that was not told."""
        self.head = b""
        """What each message about it begins with, since the first one."""
        self.unsent = 0
        """Which parts the present session was not told."""

    def parts(self) -> int:
        """Return which parts there are to tell, to a session that knows nothing."""
        found = IS_NEW
        if self.is_over:
            found |= IS_OVER
        if self.length is not None:
            found |= HAS_LENGTH
        if self.status is not None:
            found |= HAS_STATUS
        if self.reason:
            found |= HAS_REASON
        return found
