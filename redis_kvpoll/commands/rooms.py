"""The operations on rooms: input checked, reply decoded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, NoReturn, ParamSpec, TypeVar

from redis_kvpoll import checks
from redis_kvpoll.commands import shape
from redis_kvpoll.commands.shape import Command
from redis_kvpoll.errors import CorruptEntryError, InvalidInputError, KVTransferError, RoomNotFoundError
from redis_kvpoll.status import Entry, KVPoll, Outcome, Update

V = TypeVar("V")
D = TypeVar("D")
C = TypeVar("C")
P = ParamSpec("P")

DEFAULT_ABORT_REASON = "Aborted by AbortReq."
NO_REASON = "no reason was recorded"

_STATUSES: dict[bytes | None, KVPoll | None] = {None: None, **{s.name.encode(): s for s in KVPoll}}
# There are so few different updates that each is made once.
_UPDATES = {(o.value, name): Update(o, status) for o in Outcome for name, status in _STATUSES.items()}


def _named(build: Callable[P, C]) -> Callable[P, C]:
    """Put the operation's name before what is said of its arguments."""

    @wraps(build)
    def named(*args: P.args, **kwargs: P.kwargs) -> C:
        try:
            return build(*args, **kwargs)
        except InvalidInputError as error:
            raise InvalidInputError(f"{build.__name__}: {error}") from None

    return named


# Writing


@_named
def update_status(room: int, status: KVPoll | int) -> Command[Update, Update]:
    items = [checks.status_name(status)]
    return Command("update_status", shape.UPDATE, [checks.room(room)], items, _updates, _only)


@_named
def update_many(statuses: Mapping[int, KVPoll | int]) -> Command[Update, dict[int, Update]]:
    if not isinstance(statuses, Mapping):
        raise InvalidInputError(f"it takes a mapping of room to status, not {type(statuses).__name__}")
    items = checks.status_names(statuses.values())
    return Command("update_many", shape.UPDATE, checks.rooms(statuses), items, _updates, _by_room)


@_named
def abort(room: int, reason: str) -> Command[Update, Update]:
    items = [checks.reason(reason)]
    return Command("abort", shape.ABORT, [checks.room(room)], items, _updates, _only)


@_named
def record_failure(room: int, reason: str) -> Command[bool, bool]:
    items = [checks.reason(reason)]
    return Command("record_failure", shape.RECORD_FAILURE, [checks.room(room)], items, _flags, _only)


@_named
def touch(rooms: Iterable[int]) -> Command[bool, int]:
    return Command("touch", shape.TOUCH, _distinct(rooms), [], _flags, lambda _, kept: sum(kept))


@_named
def set_decode_prefix_len(room: int, length: int) -> Command[bool, None]:
    items = [str(checks.prefix_len(length))]
    rooms = [checks.room(room)]
    return Command("set_decode_prefix_len", shape.SET_PREFIX, rooms, items, _flags, lambda *_: None)


# Destroying: never sent again once the reply was lost


@_named
def clear(room: int) -> Command[KVPoll | None, KVPoll | None]:
    return Command("clear", shape.CLEAR, [checks.room(room)], [], _cleared, _only)


@_named
def clear_many(rooms: Iterable[int]) -> Command[KVPoll | None, dict[int, KVPoll | None]]:
    distinct = _distinct(rooms)
    return Command("clear_many", shape.CLEAR, distinct, [], _cleared, _by_room)


@_named
def failure_exception(room: int) -> Command[KVTransferError, KVTransferError]:
    rooms = [checks.room(room)]
    return Command("failure_exception", shape.CLEAR, rooms, [], _failures, _only)


@_named
def pop_decode_prefix_len(room: int) -> Command[int, int]:
    rooms = [checks.room(room)]
    return Command("pop_decode_prefix_len", shape.POP_PREFIX, rooms, [], _lengths, _only)


# Reading


@_named
def get(room: int, default: D) -> Command[KVPoll | None, KVPoll | D]:
    def finish(_: list[int], values: list[KVPoll | None]) -> KVPoll | D:
        return default if values[0] is None else values[0]

    return Command("get", shape.POLL, [checks.room(room)], [], _statuses, finish)


@_named
def check_status(room: int) -> Command[KVPoll | None, KVPoll]:
    def finish(rooms: list[int], values: list[KVPoll | None]) -> KVPoll:
        if values[0] is None:
            raise RoomNotFoundError(rooms[0])
        return values[0]

    return Command("check_status", shape.POLL, [checks.room(room)], [], _statuses, finish)


@_named
def poll(rooms: Iterable[int]) -> Command[KVPoll | None, list[KVPoll | None]]:
    return Command("poll", shape.POLL, _listed(rooms), [], _statuses, lambda _, values: values)


@_named
def wait(room: int) -> Command[KVPoll | None, KVPoll | None]:
    """The read that a wait begins with; what hears of the replies (see Delivery) learns at which id it was true."""
    return Command("wait", shape.SNAPSHOT, [checks.room(room)], [], _snapshots, _only)


@_named
def failure_reason(room: int) -> Command[Entry | None, str | None]:
    def finish(_: list[int], entries: list[Entry | None]) -> str | None:
        return entries[0].reason if entries[0] else None

    return Command("failure_reason", shape.ENTRY, [checks.room(room)], [], _entries, finish)


@_named
def entry(room: int) -> Command[Entry | None, Entry | None]:
    return Command("entry", shape.ENTRY, [checks.room(room)], [], _entries, _only)


def wanted(status: KVPoll | int | None) -> KVPoll | None:
    """The status that ``rooms`` is to look for; None for any."""
    try:
        return None if status is None else checks.status(status)
    except InvalidInputError as error:
        raise InvalidInputError(f"rooms: {error}") from None


def known(name: Any) -> KVPoll | None:
    """The status that the server names; None for an absent room, and for what no script of ours writes."""
    return _STATUSES.get(name) if isinstance(name, bytes) else None


# Lists of rooms


def _listed(rooms: Iterable[int]) -> list[int]:
    try:
        if isinstance(rooms, str | bytes | bytearray):  # the ids in it would be its characters
            raise TypeError
        each = iter(rooms)  # a numpy array without dimensions is an Iterable and yet refuses
    except TypeError:
        raise InvalidInputError(f"it takes a list of rooms, not {type(rooms).__name__}") from None
    return checks.rooms(each)


def _distinct(rooms: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(_listed(rooms)))


# What a caller gets from the values of all rooms


def _only(_: list[int], values: list[V]) -> V:
    return values[0]


def _by_room(rooms: list[int], values: list[V]) -> dict[int, V]:
    return dict(zip(rooms, values, strict=True))


# A value for each room from the reply of one call


def _statuses(operation: str, rooms: list[int], reply: list[Any]) -> list[KVPoll | None]:
    try:
        return [_STATUSES[name] for name in reply]
    except KeyError:
        _corrupt(operation, rooms, reply)


def _snapshots(operation: str, rooms: list[int], reply: list[Any]) -> list[KVPoll | None]:
    return _statuses(operation, rooms, reply[::2])


def _updates(operation: str, rooms: list[int], reply: list[Any]) -> list[Update]:
    try:
        return [_UPDATES[answer] for answer in zip(reply[::2], reply[1::2], strict=True)]
    except KeyError:
        _corrupt(operation, rooms, reply[1::2])


def _cleared(operation: str, _: list[int], reply: list[Any]) -> list[KVPoll | None]:
    # The room is gone, whatever it held: that a hand-made entry had no known status is no reason to fail now.
    return [_STATUSES.get(name) for name in reply[::2]]


def _failures(operation: str, rooms: list[int], reply: list[Any]) -> list[KVTransferError]:
    return [KVTransferError(room, _text(reason) or NO_REASON) for room, reason in zip(rooms, reply[1::2], strict=True)]


def _flags(operation: str, rooms: list[int], reply: list[Any]) -> list[bool]:
    for room, flag in zip(rooms, reply, strict=True):
        if isinstance(flag, Exception):
            raise CorruptEntryError(room, operation, _found(flag))
    return [flag == 1 for flag in reply]


def _lengths(operation: str, rooms: list[int], reply: list[Any]) -> list[int]:
    return [_length(operation, room, length) or 0 for room, length in zip(rooms, reply, strict=True)]


def _length(operation: str, room: int, length: bytes | None) -> int | None:
    try:
        return None if length is None else int(length)
    except (TypeError, ValueError):
        raise CorruptEntryError(room, operation, f"the decode prefix length {_found(length)}") from None


def _entries(operation: str, rooms: list[int], reply: list[Any]) -> list[Entry | None]:
    return [
        _entry(operation, room, *reply[at : at + 3]) for room, at in zip(rooms, range(0, len(reply), 3), strict=True)
    ]


def _entry(operation: str, room: int, ttl_ms: int, length: Any, pairs: Any) -> Entry | None:
    if not pairs:
        return None
    if isinstance(pairs, Exception):
        raise CorruptEntryError(room, operation, _found(pairs))
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    status = _statuses(operation, [room], [fields.get(b"status", b"")])[0]
    assert status is not None  # noqa: S101 - an absent status is not None here but refused above
    try:
        opened_at, updated_at = int(fields[b"opened_ms"]) / 1000, int(fields[b"updated_ms"]) / 1000
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
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _corrupt(operation: str, rooms: list[int], names: list[Any]) -> NoReturn:
    room, name = next((r, n) for r, n in zip(rooms, names, strict=True) if n not in _STATUSES)
    what = _found(name) if isinstance(name, Exception) else f"status {_found(name)}"
    raise CorruptEntryError(room, operation, what)


def _found(value: bytes | Exception | None) -> str:
    """What stands where it should not: a text, or the error that reading it gave."""
    return f"a key of another type ({value})" if isinstance(value, Exception) else repr(_text(value))
