"""Failures, as the stream of failures and a room's fields tell them: the only module that knows the stream's names.

A hand may have written anything there: what no script writes is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis_kvpoll.model import Entry, KVPoll, RoomFailure
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.feed import decode_reason
from redis_kvpoll.protocol.script_specs import FAILURES, OPEN

_NAMES = {b"request": "request", b"owner": "owner", b"by": "by", b"reason": "reason", b"origin": "origin"}


def parse_entry(words: Sequence[bytes]) -> list[RoomFailure]:
    """Return the failures of one entry, in its order."""
    found: list[RoomFailure] = []
    is_known = False
    for name, value in zip(words[::2], words[1::2], strict=False):
        if name.isdigit():
            room, generation = keys.parse_room(name), _generation(value)
            is_known = room is not None and generation is not None
            if room is not None and generation is not None:
                found.append(RoomFailure(room, generation))
        elif is_known and name in _NAMES and value:
            fields: dict[str, Any] = {_NAMES[name]: decode_reason(value)}
            found[-1] = found[-1]._replace(**fields)
    return found


def of_rooms(rooms: Sequence[int], reply: Sequence[Any]) -> list[RoomFailure]:
    """Return the failures in a reply of lua/failures.lua, without its position. An absent room is none."""
    found = []
    for room, (status, generation, *words) in zip(rooms, FAILURES.rows(reply), strict=True):
        number = _generation(generation or b"")
        if status == b"Failed" and number is not None:
            found.append(RoomFailure(room, number, *map(decode_reason, (word or None for word in words))))
    return found


def of_opening(rooms: Sequence[int], reply: Sequence[Any]) -> list[RoomFailure]:
    """Return the failures in a reply of lua/open.lua, without its feed id and epoch: rooms that were opened Failed."""
    found = []
    for room, (code, status, generation, _, owner, request, _) in zip(rooms, OPEN.rows(reply), strict=True):
        if code > 0 and status == b"Failed":
            number = _generation(generation or b"") or 0
            found.append(RoomFailure(room, number, decode_reason(request or None), decode_reason(owner or None)))
    return found


def of_entry(entry: Entry) -> RoomFailure | None:
    """Return the failure that a room has; None if it is not Failed."""
    if entry.status is not KVPoll.Failed:
        return None
    return RoomFailure(
        entry.room, entry.generation or 0, entry.request, entry.owner, by=entry.failed_by, reason=entry.reason
    )


def _generation(digits: bytes) -> int | None:
    """Return a generation; 0 for a room without one. None for what no script writes, as another form of a number."""
    if not digits:
        return 0
    return int(digits) if digits.isdigit() and len(digits) <= 16 and digits[:1] != b"0" else None
