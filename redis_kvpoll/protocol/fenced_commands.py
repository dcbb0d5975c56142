"""The operations on one generation of a room: open or attach, then fenced writes and reads."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from redis_kvpoll import validation
from redis_kvpoll.errors import RoomNotFoundError
from redis_kvpoll.model import KVPoll, Update
from redis_kvpoll.protocol import replies, script_specs
from redis_kvpoll.protocol.replies import OpenedRoom
from redis_kvpoll.protocol.script_call import Command, by_room, named, only


@named
def open(room: int, request: str | None, status: KVPoll | int, seen: int) -> Command[OpenedRoom, OpenedRoom]:  # noqa: A001
    request = secrets.token_hex(8) if request is None else validation.request(request)
    items = [request, validation.opening_status(status), str(seen) if seen else ""]
    return Command("open", script_specs.OPEN, [validation.room(room)], items, replies.openings, only)


@named
def attach(room: int) -> Command[OpenedRoom | None, OpenedRoom]:
    def finish(rooms: list[int], found: list[OpenedRoom | None]) -> OpenedRoom:
        if found[0] is None:
            raise RoomNotFoundError(rooms[0], "attach")
        return found[0]

    return Command("attach", script_specs.ATTACH, [validation.room(room)], [], replies.attachments, finish)


@named
def update(room: int, generation: int, status: KVPoll | int) -> Command[Update, Update]:
    items = [validation.status_name(status), str(generation), ""]
    return Command("update", script_specs.WRITE, [room], items, replies.updates, only)


@named
def fail(room: int, generation: int, reason: str) -> Command[Update, Update]:
    items = [KVPoll.Failed.name, str(generation), validation.reason(reason)]
    return Command("fail", script_specs.WRITE, [room], items, replies.updates, only)


@named
def record_failure(room: int, generation: int, reason: str) -> Command[bool, bool]:
    items = [validation.reason(reason), str(generation)]
    return Command("record_failure", script_specs.RECORD_FAILURE, [room], items, replies.flags, only)


def clear(room: int, generation: int) -> Command[Update, Update]:
    """Clear one generation."""
    return Command("clear", script_specs.CLEAR_FENCED, [room], [str(generation)], replies.clearings, only)


def clear_many(generations: Mapping[int, int | None]) -> Command[Update, dict[int, Update]]:
    """Clear many rooms, each only while it has its generation here; None, of a room made by hand, clears any.

    It is not sent again after a lost reply: the second execution could not tell what the first one has cleared.
    """
    items = ["" if generation is None else str(generation) for generation in generations.values()]
    return Command("clear_many", script_specs.CLEAR, list(generations), items, replies.clearings, by_room)


@named
def set_decode_prefix_len(room: int, generation: int, length: int) -> Command[bool, bool]:
    items = [str(validation.prefix_len(length)), str(generation)]
    return Command("set_decode_prefix_len", script_specs.SET_PREFIX, [room], items, replies.flags, only)


def status(room: int, generation: int) -> Command[OpenedRoom | None, KVPoll | None]:
    """The status of one generation; None when the room no longer has it."""

    def finish(_: list[int], found: list[OpenedRoom | None]) -> KVPoll | None:
        return found[0].status if found[0] and found[0].generation == generation else None

    return Command("status", script_specs.ATTACH, [room], [], replies.attachments, finish)


def decode_prefix_len(room: int, generation: int) -> Command[OpenedRoom | None, int]:
    """The decode prefix length of one generation; 0 if there is none, or the room has another generation."""

    def finish(_: list[int], found: list[OpenedRoom | None]) -> int:
        return found[0].length if found[0] and found[0].generation == generation else 0

    return Command("decode_prefix_len", script_specs.ATTACH, [room], [], replies.attachments, finish)
