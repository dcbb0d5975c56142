"""The operations on rooms: each function checks its arguments and returns a Command.

Reads are safe to repeat, and so are writes that the scripts merge. The destructive operations are not: their specs have
``repeatable=False``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from redis_kvpoll import validation
from redis_kvpoll.errors import CorruptEntryError, InvalidInputError, KVTransferError, RoomNotFoundError
from redis_kvpoll.model import Consensus, Entry, KVPoll, RoomRow, Update
from redis_kvpoll.protocol import replies, script_specs
from redis_kvpoll.protocol import rows as row_replies
from redis_kvpoll.protocol.script_call import Command, by_room, named, only

D = TypeVar("D")

DEFAULT_ABORT_REASON = "Aborted by AbortReq."


# Writing


@named
def update_status(room: int, status: KVPoll | int) -> Command[Update, Update]:
    items = [validation.status_name(status)]
    return Command("update_status", script_specs.UPDATE, [validation.room(room)], items, replies.updates, only)


@named
def update_many(statuses: Mapping[int, KVPoll | int]) -> Command[Update, dict[int, Update]]:
    if not isinstance(statuses, Mapping):
        raise InvalidInputError(f"it takes a mapping of room to status, not {type(statuses).__name__}")
    items = validation.status_names(statuses.values())
    return Command("update_many", script_specs.UPDATE, validation.rooms(statuses), items, replies.updates, by_room)


@named
def abort(room: int, reason: str) -> Command[Update, Update]:
    items = [validation.reason(reason)]
    return Command("abort", script_specs.ABORT, [validation.room(room)], items, replies.updates, only)


@named
def record_failure(room: int, reason: str) -> Command[bool, bool]:
    items = [validation.reason(reason), ""]
    return Command("record_failure", script_specs.RECORD_FAILURE, [validation.room(room)], items, replies.flags, only)


@named
def touch(rooms: Iterable[int]) -> Command[bool, int]:
    return Command("touch", script_specs.TOUCH, _distinct(rooms), [], replies.flags, lambda _, kept: sum(kept))


@named
def set_decode_prefix_len(room: int, length: int) -> Command[bool, None]:
    items = [str(validation.prefix_len(length)), ""]
    rooms = [validation.room(room)]
    return Command("set_decode_prefix_len", script_specs.SET_PREFIX, rooms, items, replies.flags, lambda *_: None)


# Destructive: not sent again after a lost reply


@named
def clear(room: int) -> Command[KVPoll | None, KVPoll | None]:
    return Command("clear", script_specs.CLEAR, [validation.room(room)], [""], replies.cleared, only)


@named
def clear_many(rooms: Iterable[int]) -> Command[KVPoll | None, dict[int, KVPoll | None]]:
    distinct = _distinct(rooms)
    return Command("clear_many", script_specs.CLEAR, distinct, [""] * len(distinct), replies.cleared, by_room)


@named
def failure_exception(room: int) -> Command[KVTransferError, KVTransferError]:
    rooms = [validation.room(room)]
    return Command("failure_exception", script_specs.CLEAR, rooms, [""], replies.failures, only)


@named
def pop_decode_prefix_len(room: int) -> Command[int, int]:
    rooms = [validation.room(room)]
    return Command("pop_decode_prefix_len", script_specs.POP_PREFIX, rooms, [], replies.lengths, only)


# Reading


@named
def get(room: int, default: D) -> Command[KVPoll | None, KVPoll | D]:
    def finish(_: list[int], values: list[KVPoll | None]) -> KVPoll | D:
        return default if values[0] is None else values[0]

    return Command("get", script_specs.POLL_OWN, [validation.room(room)], [], replies.statuses, finish)


@named
def check_status(room: int) -> Command[KVPoll | None, KVPoll]:
    def finish(rooms: list[int], values: list[KVPoll | None]) -> KVPoll:
        if values[0] is None:
            raise RoomNotFoundError(rooms[0])
        return values[0]

    return Command("check_status", script_specs.POLL_OWN, [validation.room(room)], [], replies.statuses, finish)


@named
def poll(rooms: Iterable[int]) -> Command[KVPoll | None, list[KVPoll | None]]:
    return Command("poll", script_specs.POLL_OWN, room_list(rooms), [], replies.statuses, lambda _, values: values)


def statuses(rooms: Iterable[int], operation: str) -> Command[KVPoll | None, list[KVPoll | None]]:
    """As poll, but with the consensus of a room's ranks, whatever the store's rank; a part of another operation."""
    return Command(operation, script_specs.POLL, room_list(rooms), [], replies.statuses, lambda _, values: values)


@named
def rows(rooms: Iterable[int]) -> Command[RoomRow | None, list[RoomRow]]:
    """The rooms that exist."""

    def finish(_: list[int], found: list[RoomRow | None]) -> list[RoomRow]:
        return [row for row in found if row is not None]

    def decode(_: str, asked: list[int], reply: list[Any]) -> list[RoomRow | None]:
        return row_replies.rows(asked, reply)

    return Command("rows", script_specs.SNAPSHOT_FIELDS, room_list(rooms), [], decode, finish)


@named
def entries(rooms: Iterable[int]) -> Command[Entry | CorruptEntryError | None, dict[int, Entry | CorruptEntryError]]:
    def finish(asked: list[int], found: list[Entry | CorruptEntryError | None]) -> dict[int, Entry | CorruptEntryError]:
        return {room: entry for room, entry in zip(asked, found, strict=True) if entry is not None}

    return Command("entries", script_specs.ENTRY, _distinct(rooms), [], replies.entries_or_errors, finish)


@named
def consensus(rooms: Iterable[int]) -> Command[Consensus, list[Consensus]]:
    return Command(
        "consensus", script_specs.CONSENSUS, room_list(rooms), [], replies.consensuses, lambda _, values: values
    )


@named
def collect(room: int) -> Command[Entry | None, dict[int, KVPoll]]:
    def finish(_: list[int], entries: list[Entry | None]) -> dict[int, KVPoll]:
        return dict(sorted(entries[0].ranks.items())) if entries[0] else {}

    return Command("collect", script_specs.ENTRY, [validation.room(room)], [], replies.entries, finish)


@named
def wait(room: int) -> Command[KVPoll | None, KVPoll | None]:
    """The first read of a wait. Observers of the store receive the reply with its feed id."""
    return Command("wait", script_specs.SNAPSHOT, [validation.room(room)], [], replies.snapshots, only)


@named
def failure_reason(room: int) -> Command[Entry | None, str | None]:
    def finish(_: list[int], entries: list[Entry | None]) -> str | None:
        return entries[0].reason if entries[0] else None

    return Command("failure_reason", script_specs.ENTRY, [validation.room(room)], [], replies.entries, finish)


@named
def entry(room: int) -> Command[Entry | None, Entry | None]:
    return Command("entry", script_specs.ENTRY, [validation.room(room)], [], replies.entries, only)


def status_filter(status: KVPoll | int | None, operation: str) -> KVPoll | None:
    """Return the status by which ``rooms`` or ``rows`` filters; None for all."""
    with validation.of(operation):
        return None if status is None else validation.status(status)


# Lists of rooms


def room_list(rooms: Iterable[int]) -> list[int]:
    """Return an iterable of room ids as a checked list."""
    try:
        each = iter(validation.listed(rooms))  # a zero-dimensional numpy array is an Iterable and raises TypeError
    except TypeError:
        raise InvalidInputError(f"it takes a list of rooms, not {type(rooms).__name__}") from None
    return validation.rooms(each)


def _distinct(rooms: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(room_list(rooms)))
