"""Decoders of script replies.

Each takes (operation, rooms of a call, its reply) and returns a value for each room, or raises the error that the reply
reports. A value that no script writes raises CorruptEntryError, whatever bytes it has.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple, NoReturn

from redis_kvpoll.errors import (
    CorruptEntryError,
    KVTransferError,
    LeaseLostError,
    RoomBusyError,
    WorldSizeMismatchError,
)
from redis_kvpoll.model import Consensus, Entry, KVPoll, Outcome, Refusal, Update
from redis_kvpoll.protocol.rank_replies import rank_leases_in, ranks_in
from redis_kvpoll.protocol.script_call import ScriptSpec
from redis_kvpoll.protocol.script_specs import ATTACH, CLEAR, CLEARED, CONSENSUS, ENTRY, OPEN, UPDATE
from redis_kvpoll.validation import MAX_PREFIX_LEN, MAX_WORLD_SIZE

NO_REASON = "no reason was recorded"
NOT_A_STATUS: Any = object()
"""What readers of one status take for a value that is none."""

STATUSES: dict[bytes | None, KVPoll | None] = {None: None, **{s.name.encode(): s for s in KVPoll}}
"""The status in a reply; None if the room is absent."""

# All possible updates, each created once.
_UPDATES = {(o.value, name): Update(o, status) for o in Outcome for name, status in STATUSES.items()}
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,15}")
"""As scripts write numbers."""
_FIRST_TIME = 10**15
"""The least generation that is a time in microseconds."""
_MAX_NUMBER = 9 * 10**15 - 1
"""As in lua/include/numbers.lua."""
_FEED_ID = re.compile(rb"([0-9]{1,20})-[0-9]{1,20}")
_LAST_MS = 253_402_300_799_000
"""The end of the year 9999, the last time that Python shows."""
_FIELDS = (b"generation", b"opened", b"status", b"version")
_SHOWN = 64
"""Characters of a value in an error."""
DENIED_IN_SCRIPT = ("The user executing the script ", "ACL failure in script: ")
"""How a denial inside a script begins, which has no code there: before Redis 7.2, and from it on (Valkey, too)."""


def raise_denied(error: Exception) -> None:
    """Raise an error in a reply that tells of a denied permission, and so of no value."""
    if any(words in str(error) for words in DENIED_IN_SCRIPT):
        raise error


def parse_status(name: Any) -> KVPoll | None:
    """Return the status with a name; None for an absent room and for any other value."""
    return STATUSES.get(name) if isinstance(name, bytes) else None


def statuses(operation: str, rooms: list[int], reply: list[Any]) -> list[KVPoll | None]:
    try:
        return [STATUSES[name] for name in reply]
    except KeyError:
        _corrupt(operation, rooms, reply)


def snapshots(operation: str, rooms: list[int], reply: list[Any]) -> list[KVPoll | None]:
    return statuses(operation, rooms, reply[:: len(reply) // len(rooms)])  # snapshot_ranks has more fields per room


def updates(operation: str, rooms: list[int], reply: list[Any]) -> list[Update]:
    try:
        return [_UPDATES[answer] for answer in zip(reply[::2], reply[1::2], strict=True)]
    except KeyError:
        _check_refusals(operation, rooms, UPDATE, reply)
        _corrupt(operation, rooms, reply[1::2])


def update(reply: list[Any]) -> Update | None:
    """Return the update of a room in a reply that has one; None for any other reply."""
    return _UPDATES.get((reply[0], reply[1]))


def cleared(operation: str, rooms: list[int], reply: list[Any]) -> list[KVPoll | None]:
    _check_refusals(operation, rooms, CLEAR, reply)
    # The room was deleted, so an unknown status that it had is no longer an error.
    return [STATUSES.get(name) for _, name, _ in CLEAR.rows(reply)]


def clearings(operation: str, rooms: list[int], reply: list[Any]) -> list[Update]:
    _check_refusals(operation, rooms, CLEAR, reply)
    return [
        Update(Outcome.CLEARED if code in CLEARED else Outcome(code), STATUSES.get(name))
        for code, name, _ in CLEAR.rows(reply)
    ]


def failures(operation: str, rooms: list[int], reply: list[Any]) -> list[KVTransferError]:
    _check_refusals(operation, rooms, CLEAR, reply)
    by_room = zip(rooms, CLEAR.rows(reply), strict=True)
    return [KVTransferError(room, _text(reason) or NO_REASON) for room, (_, _, reason) in by_room]


def consensuses(operation: str, rooms: list[int], reply: list[Any]) -> list[Consensus]:
    found = statuses(operation, rooms, [name for name, _, _ in CONSENSUS.rows(reply)])
    return [
        Consensus(
            status, _count(operation, room, "generation", generation), _count(operation, room, "version", version)
        )
        for room, status, (_, generation, version) in zip(rooms, found, CONSENSUS.rows(reply), strict=True)
    ]


class OpenedRoom(NamedTuple):
    """The generation of a room that ``open`` or ``attach`` has found."""

    outcome: Outcome
    status: KVPoll | None
    generation: int
    request: str | None
    length: int = 0


def openings(operation: str, rooms: list[int], reply: list[Any]) -> list[OpenedRoom]:
    _check_refusals(operation, rooms, OPEN, reply)
    found = statuses(operation, rooms, [name for _, name, *_ in OPEN.rows(reply)])
    return [
        OpenedRoom(Outcome(code), status, _count(operation, room, "generation", generation), _text(request))
        for room, status, (code, _, generation, _, _, request, _) in zip(rooms, found, OPEN.rows(reply), strict=True)
    ]


def attachments(operation: str, rooms: list[int], reply: list[Any]) -> list[OpenedRoom | None]:
    found = statuses(operation, rooms, [name for name, *_ in ATTACH.rows(reply)])
    return [
        OpenedRoom(
            Outcome.UNCHANGED,
            status,
            _count(operation, room, "generation", generation),
            _text(request),
            _length(operation, room, length) or 0,
        )
        if generation
        else None
        for room, status, (_, generation, request, length, _) in zip(rooms, found, ATTACH.rows(reply), strict=True)
    ]


def _check_refusals(operation: str, rooms: list[int], spec: ScriptSpec, reply: list[Any]) -> None:
    """Raise the error of the first refusal in a reply."""
    for room, (code, word, *more) in zip(rooms, spec.rows(reply), strict=True):
        if code == Refusal.LEASE.value:
            raise LeaseLostError(operation, _text(word) or "")
        if code == Refusal.WORLD_SIZE.value:
            _count(operation, room, "world_size", word or None, MAX_WORLD_SIZE)
            raise WorldSizeMismatchError(room, operation, _text(word) or "0")
        if code == Refusal.CORRUPT.value:
            _corrupt(operation, [room], [word])
        if code == Refusal.BUSY.value:
            _, age_ms, owner, request, _ = more
            raise RoomBusyError(room, STATUSES.get(word), int(age_ms) / 1000, _text(owner), _text(request))


def _count(operation: str, room: int, name: str, value: bytes | None, limit: int = _MAX_NUMBER) -> int:
    """Return the number in a field; 0 if there is none."""
    if value is None:
        return 0
    if not _NUMBER.fullmatch(value) or int(value) > limit:
        raise CorruptEntryError(room, operation, f"{name} {_found(value)}")
    return int(value)


def flags(operation: str, rooms: list[int], reply: list[Any]) -> list[bool]:
    for room, flag in zip(rooms, reply, strict=True):
        if isinstance(flag, Exception | bytes):
            _corrupt(operation, [room], [flag])
    return [flag == 1 for flag in reply]


def lengths(operation: str, rooms: list[int], reply: list[Any]) -> list[int]:
    return [_length(operation, room, length) or 0 for room, length in zip(rooms, reply, strict=True)]


def _length(operation: str, room: int, length: Any) -> int | None:
    if length is None:
        return None
    if isinstance(length, Exception) or not _NUMBER.fullmatch(length) or int(length) > MAX_PREFIX_LEN:
        raise CorruptEntryError(room, operation, f"the decode prefix length {_found(length)}")
    return int(length)


def entries(operation: str, rooms: list[int], reply: list[Any]) -> list[Entry | None]:
    return [_entry(operation, room, *row) for room, row in zip(rooms, ENTRY.rows(reply), strict=True)]


def entries_or_errors(operation: str, rooms: list[int], reply: list[Any]) -> list[Entry | CorruptEntryError | None]:
    """As entries, but a corrupt room hides no other."""
    found: list[Entry | CorruptEntryError | None] = []
    for room, row in zip(rooms, ENTRY.rows(reply), strict=True):
        try:
            found.append(_entry(operation, room, *row))
        except CorruptEntryError as error:
            found.append(error)
    return found


def _entry(operation: str, room: int, ttl_ms: int, length: Any, pairs: Any) -> Entry | None:
    if not pairs:
        return None
    if isinstance(pairs, Exception):
        raise CorruptEntryError(room, operation, _found(pairs))
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    status = statuses(operation, [room], [fields.get(b"status", b"")])[0]
    assert status is not None  # noqa: S101 - statuses() has raised for a missing status
    generation = _count(operation, room, "generation", fields.get(b"generation"))
    updated_at = _seconds(operation, room, "updated_ms", fields.get(b"updated_ms"))
    created_at = opened_at = _opened_at(operation, room, fields, generation)
    is_restored = b"replayed" in fields
    if is_restored and generation >= _FIRST_TIME:
        opened_at = min(opened_at, generation / 1_000_000)
    return Entry(
        room,
        status,
        # The id of its entry may be a millisecond above the time that the script has written.
        min(opened_at, updated_at),
        updated_at,
        ttl=ttl_ms / 1000 if ttl_ms >= 0 else math.inf,
        reason=_text(fields.get(b"reason")),
        decode_prefix_len=_length(operation, room, length),
        generation=generation or None,
        failed_by=_text(fields.get(b"failed_by")),
        request=_text(fields.get(b"request")),
        owner=_text(fields.get(b"owner")),
        world_size=_count(operation, room, "world_size", fields.get(b"world_size"), MAX_WORLD_SIZE) or None,
        ranks={**ranks_in(fields, b"status:"), **ranks_in(fields, b"cleared:")},
        cleared=frozenset(ranks_in(fields, b"cleared:")),
        restored_at=created_at if is_restored else None,
        rank_leases=rank_leases_in(fields),
        opening=_text(fields.get(b"opened")),
    )


def _opened_at(operation: str, room: int, fields: dict[bytes, bytes], generation: int) -> float:
    """Return when a room was opened: the time in the id of its entry, or a field of its own."""
    if b"opened" not in fields:
        return _seconds(operation, room, "opened_ms", fields.get(b"opened_ms"))
    found = _FEED_ID.fullmatch(fields[b"opened"])
    if found is None:
        raise CorruptEntryError(room, operation, f"opened {_found(fields[b'opened'])}")
    # After an entry with a time that no clock gives, made by hand, the generation has the clock's.
    return int(found[1]) / 1000 if int(found[1]) <= _LAST_MS else generation / 1_000_000


def _seconds(operation: str, room: int, name: str, milliseconds: bytes | None) -> float:
    if milliseconds is None:
        raise CorruptEntryError(room, operation, f"no {name}")
    return _count(operation, room, name, milliseconds, _LAST_MS) / 1000


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _corrupt(operation: str, rooms: list[int], names: list[Any]) -> NoReturn:
    room, name = next((r, n) for r, n in zip(rooms, names, strict=True) if n not in STATUSES)
    if isinstance(name, Exception):
        raise CorruptEntryError(room, operation, _found(name))
    # A script names another field than the status before its value.
    field, _, value = name.partition(b" ")
    if field not in _FIELDS:
        field, value = b"status", name
    raise CorruptEntryError(room, operation, f"{field.decode()} {_found(value)}")


def _found(value: bytes | Exception | None) -> str:
    """Describe an invalid value: its text, or the server's error on reading it; raise one that tells of no value."""
    if isinstance(value, Exception):
        raise_denied(value)
        return f"a key of another type ({value})"
    text = _text(value)
    return repr(text) if text is None or len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"
