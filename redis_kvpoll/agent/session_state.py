"""How far a session is, as its client is told."""

from __future__ import annotations

from typing import NamedTuple


class SessionState(NamedTuple):
    """What a session tells of itself, in this order."""

    received: int = 0
    """How many changes have come on this connection."""
    is_idle: bool = False
    """Whether the table has all of them."""
    is_up: bool = False
    """Whether the failures of the client's rooms are current."""
    is_reachable: bool = True
    """False once Redis has been out of reach for long enough to be logged."""
    pending: int = 0
    """Rooms with changes that the table does not have."""
    dropped: int = 0
    """Lives that never reached the table."""
