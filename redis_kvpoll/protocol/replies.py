"""Decoders of script replies.

Each takes (operation, rooms of a call, its reply) and returns a value for each room, or raises the error that the reply
reports. A value that no script writes raises CorruptEntryError.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, NoReturn

from redis_kvpoll.errors import (
    CorruptEntryError,
    KVTransferError,
    LeaseLostError,
    RoomBusyError,
    WorldSizeMismatchError,
)
from redis_kvpoll.model import Consensus, Entry, KVPoll, Outcome, Refusal, Update

NO_REASON = "no reason was recorded"

_STATUSES: dict[bytes | None, KVPoll | None] = {None: None, **{s.name.encode(): s for s in KVPoll}}
# All possible updates, each created once.
_UPDATES = {(o.value, name): Update(o, status) for o in Outcome for name, status in _STATUSES.items()}


def parse_status(name: Any) -> KVPoll | None:
    """Return the status with a name; None for an absent room and for any other value."""
    return _STATUSES.get(name) if isinstance(name, bytes) else None


def statuses(operation: str, rooms: list[int], reply: list[Any]) -> list[KVPoll | None]:
    try:
        return [_STATUSES[name] for name in reply]
    except KeyError:
        _corrupt(operation, rooms, reply)


def snapshots(operation: str, rooms: list[int], reply: list[Any]) -> list[KVPoll | None]:
    return statuses(operation, rooms, reply[:: len(reply) // len(rooms)])  # snapshot_ranks has more fields per room


def updates(operation: str, rooms: list[int], reply: list[Any]) -> list[Update]:
    try:
        return [_UPDATES[answer] for answer in zip(reply[::2], reply[1::2], strict=True)]
    except KeyError:
        _check_refusals(operation, rooms, reply, 2)
        _corrupt(operation, rooms, reply[1::2])


def cleared(operation: str, _: list[int], reply: list[Any]) -> list[KVPoll | None]:
    # The room was deleted, so an unknown status that it had is no longer an error.
    return [_STATUSES.get(name) for name in reply[1::3]]


def clearings(operation: str, rooms: list[int], reply: list[Any]) -> list[Update]:
    _check_refusals(operation, rooms, reply, 3)
    return [Update(Outcome(code), _STATUSES.get(name)) for code, name in zip(reply[::3], reply[1::3], strict=True)]


def failures(operation: str, rooms: list[int], reply: list[Any]) -> list[KVTransferError]:
    return [KVTransferError(room, _text(reason) or NO_REASON) for room, reason in zip(rooms, reply[2::3], strict=True)]


def consensuses(operation: str, rooms: list[int], reply: list[Any]) -> list[Consensus]:
    found = statuses(operation, rooms, reply[::3])
    return [Consensus(s, _count(g), _count(v)) for s, g, v in zip(found, reply[1::3], reply[2::3], strict=True)]


class OpenedRoom(NamedTuple):
    """The generation of a room that ``open`` or ``attach`` has found."""

    outcome: Outcome
    status: KVPoll | None
    generation: int
    request: str | None
    length: int = 0


def openings(operation: str, rooms: list[int], reply: list[Any]) -> list[OpenedRoom]:
    _check_refusals(operation, rooms, reply, 7)
    found = statuses(operation, rooms, reply[1::7])
    return [
        OpenedRoom(Outcome(code), status, _count(generation), _text(request))
        for code, status, generation, request in zip(reply[::7], found, reply[2::7], reply[5::7], strict=True)
    ]


def attachments(operation: str, rooms: list[int], reply: list[Any]) -> list[OpenedRoom | None]:
    found = statuses(operation, rooms, reply[::4])
    return [
        OpenedRoom(Outcome.UNCHANGED, status, _count(generation), _text(request), _length(operation, room, length) or 0)
        if generation
        else None
        for room, status, generation, request, length in zip(
            rooms, found, reply[1::4], reply[2::4], reply[3::4], strict=True
        )
    ]


def _check_refusals(operation: str, rooms: list[int], reply: list[Any], width: int) -> None:
    """Raise the error of the first refusal in a reply."""
    for room, at in zip(rooms, range(0, len(reply), width), strict=True):
        code, word = reply[at : at + 2]
        if code == Refusal.LEASE.value:
            raise LeaseLostError(operation, _text(word) or "")
        if code == Refusal.WORLD_SIZE.value:
            raise WorldSizeMismatchError(room, operation, _text(word) or "0")
        if code == Refusal.BUSY.value:
            _, _, _, age_ms, owner, request = reply[at : at + 6]
            raise RoomBusyError(room, _STATUSES.get(word), int(age_ms) / 1000, _text(owner), _text(request))


def _count(value: bytes | None) -> int:
    """Return a number that a script wrote; 0 if it is missing or was overwritten by hand."""
    return int(value) if value and value.isdigit() else 0


def flags(operation: str, rooms: list[int], reply: list[Any]) -> list[bool]:
    for room, flag in zip(rooms, reply, strict=True):
        if isinstance(flag, Exception):
            raise CorruptEntryError(room, operation, _found(flag))
    return [flag == 1 for flag in reply]


def lengths(operation: str, rooms: list[int], reply: list[Any]) -> list[int]:
    return [_length(operation, room, length) or 0 for room, length in zip(rooms, reply, strict=True)]


def _length(operation: str, room: int, length: bytes | None) -> int | None:
    try:
        return None if length is None else int(length)
    except (TypeError, ValueError):
        raise CorruptEntryError(room, operation, f"the decode prefix length {_found(length)}") from None


def entries(operation: str, rooms: list[int], reply: list[Any]) -> list[Entry | None]:
    return [
        _entry(operation, room, *reply[at : at + 3]) for room, at in zip(rooms, range(0, len(reply), 3), strict=True)
    ]


def _entry(operation: str, room: int, ttl_ms: int, length: Any, pairs: Any) -> Entry | None:
    if not pairs:
        return None
    if isinstance(pairs, Exception):
        raise CorruptEntryError(room, operation, _found(pairs))
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    status = statuses(operation, [room], [fields.get(b"status", b"")])[0]
    assert status is not None  # noqa: S101 - statuses() has raised for a missing status
    try:
        opened_ms = fields[b"opened"].partition(b"-")[0] if b"opened" in fields else fields[b"opened_ms"]
        opened_at, updated_at = int(opened_ms) / 1000, int(fields[b"updated_ms"]) / 1000
    except (KeyError, OverflowError, ValueError):
        raise CorruptEntryError(room, operation, f"the fields {_text(b', '.join(sorted(fields)))}") from None
    return Entry(
        room,
        status,
        opened_at,
        updated_at,
        ttl=ttl_ms / 1000 if ttl_ms >= 0 else math.inf,
        reason=_text(fields.get(b"reason")),
        decode_prefix_len=_length(operation, room, length),
        generation=_count(fields.get(b"generation")) or None,
        failed_by=_text(fields.get(b"failed_by")),
        request=_text(fields.get(b"request")),
        owner=_text(fields.get(b"owner")),
        world_size=_count(fields.get(b"world_size")) or None,
        ranks={**_ranks(fields, b"status:"), **_ranks(fields, b"cleared:")},
        cleared=frozenset(_ranks(fields, b"cleared:")),
    )


def _ranks(fields: dict[bytes, bytes], start: bytes) -> dict[int, KVPoll]:
    """Return the status of each rank that has a field with the prefix ``start``."""
    statuses_by_rank = (
        (_count(name.removeprefix(start)), parse_status(value))
        for name, value in fields.items()
        if name.startswith(start)
    )
    return {rank: status for rank, status in statuses_by_rank if status is not None}


def ranks_of(words: Any) -> tuple[dict[int, KVPoll], set[int]]:
    """Return the status of each rank in the reply of snapshot_ranks.lua, and the ranks that have cleared."""
    found: dict[int, KVPoll] = {}
    cleared: set[int] = set()
    parts = words.split()
    for name, value in zip(parts[::2], parts[1::2], strict=True):
        kind, _, number = name.partition(b":")
        status = _STATUSES.get(value)
        if status is not None and kind in (b"status", b"cleared"):
            found[int(number)] = status
            if kind == b"cleared":
                cleared.add(int(number))
    return found, cleared


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _corrupt(operation: str, rooms: list[int], names: list[Any]) -> NoReturn:
    room, name = next((r, n) for r, n in zip(rooms, names, strict=True) if n not in _STATUSES)
    what = _found(name) if isinstance(name, Exception) else f"status {_found(name)}"
    raise CorruptEntryError(room, operation, what)


def _found(value: bytes | Exception | None) -> str:
    """Describe an invalid value: its text, or the server's error on reading it."""
    return f"a key of another type ({value})" if isinstance(value, Exception) else repr(_text(value))
