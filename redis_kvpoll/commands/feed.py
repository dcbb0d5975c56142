"""The change feed, read: what its entries say, and how to walk over them.

An entry is a list of names and values in turn, as lua/shared/feed.lua writes it. Names that are not known here are
left out, and so is whatever somebody wrote into the stream by hand: a reader must get past it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis_kvpoll import checks
from redis_kvpoll.status import KVPoll

_STATUSES: dict[Any, KVPoll | None] = {b"absent": None, **{status.name.encode(): status for status in KVPoll}}


class Change(NamedTuple):
    """What became of one room, as the feed tells it."""

    id: str
    """The id of the feed's entry; the changes of one entry share it."""
    at: float
    """When: the Unix time of the Redis server, in seconds."""
    room: int
    status: KVPoll | None
    """The status that the room got, or kept when it was only touched; None when it was cleared."""
    reason: str | None = None
    """Why it fails, when it was this change that said so."""
    ttl: float | None = None
    """The seconds that the room had from then on; None when they were left as they were, or it was cleared."""


def changes(entry_id: bytes, fields: Sequence[Any]) -> list[Change]:
    """What one entry of the feed says, in its order."""
    found: list[Change] = []
    at = _milliseconds(entry_id.partition(b"-")[0]) or 0.0
    shown_id = entry_id.decode("ascii", "replace")
    ttl = None
    is_known = False  # whether the room before is in the list
    for name, value in zip(fields[::2], fields[1::2], strict=False):
        if name == b"ttl_ms":
            ttl = _milliseconds(value)
        elif name == b"reason":
            if is_known and isinstance(value, bytes):
                found[-1] = found[-1]._replace(reason=value.decode("utf-8", "replace"))
        elif (room := _room(name)) is not None:
            is_known = value in _STATUSES
            if is_known:
                status = _STATUSES[value]
                found.append(Change(shown_id, at, room, status, ttl=None if status is None else ttl))
    return found


def _room(name: Any) -> int | None:
    """The room that a name is the id of, in the one way in which it is written."""
    if not isinstance(name, bytes) or not name.isdigit() or len(name) > 19 or (name[0] == 0x30 and name != b"0"):
        return None
    number = int(name)
    return number if number <= checks.MAX_ROOM else None


def _milliseconds(value: Any) -> float | None:
    """Seconds, from milliseconds in digits."""
    return int(value) / 1000 if isinstance(value, bytes) and value.isdigit() and len(value) <= 20 else None
