"""Decodes the replies of snapshot_fields.lua: what costs little to read of many rooms."""

from __future__ import annotations

import math
import re
from typing import Any

from redis_kvpoll.model import RoomRow
from redis_kvpoll.protocol.replies import parse_status

WIDTH = 5
"""Words of a room in a reply of snapshot_fields.lua."""
_MILLISECONDS = re.compile(rb"\d{1,15}")


def rows(rooms: list[int], reply: list[Any]) -> list[RoomRow | None]:
    """Return a row for each room in a reply of snapshot_fields.lua without its feed id; None for an absent room."""
    found: list[RoomRow | None] = []
    for room, at in zip(rooms, range(0, len(reply), WIDTH), strict=True):
        word, left_ms, opening, updated_ms, owner = reply[at : at + WIDTH]
        status = parse_status(word)
        if left_ms == -2:
            found.append(None)
            continue
        ttl = left_ms / 1000 if left_ms >= 0 else math.inf
        if status is None:
            found.append(RoomRow(room, None, 0.0, 0.0, ttl))
            continue
        since = milliseconds(updated_ms) / 1000
        opened_at = min(milliseconds(opening) / 1000, since)
        found.append(RoomRow(room, status, since, opened_at, ttl, owner.decode("utf-8", "replace") if owner else None))
    return found


def milliseconds(word: bytes | None) -> int:
    """The time in a field, or in an id of the feed; 0 if it has none."""
    found = _MILLISECONDS.match(word or b"")
    return int(found[0]) if found else 0
