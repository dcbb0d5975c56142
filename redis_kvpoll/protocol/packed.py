"""The calls on one room that are made most: packed in advance, but for the room and what depends on the status.

The bytes are made from the words that the full path would send; only updates have scripts of their own, for the usual
case. To add one: make its words here, and give it a method in ``engine/ready_calls``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from redis_kvpoll.model import KVPoll, Outcome, Update
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.script_call import Call, CallContext, ScriptSpec
from redis_kvpoll.protocol.script_specs import WRITE
from redis_kvpoll.protocol.scripts import load
from redis_kvpoll.validation import MAX_ROOM

UPDATE_ONE = ScriptSpec(
    load("update_one"),
    shard_keys=("feed", "epoch"),
    shared_args=("feed_length", "epoch_ttl_ms"),
    room_args=("ttl_ms", "status"),
    reply=("done",),
)
"""It replies otherwise than the scripts of ``script_specs``, so it is not one of them: see ``update_reply``."""

ADVANCE_ONE = ScriptSpec(
    load("advance_one"),
    shard_keys=("feed", "epoch", "leases"),
    shared_args=("feed_length", "owner", "incarnation"),
    room_args=("ttl_ms", "status", "generation"),
    reply=WRITE.reply,
)
"""Its reply is that of write.lua, or none."""

_EARLY = (KVPoll.Bootstrapping, KVPoll.WaitingForInput, KVPoll.Transferring)
_UNCHANGED = {s.name.encode()[:1]: Update(Outcome.UNCHANGED, s) for s in KVPoll}
_DIGITS = [b"%d" % digit for digit in range(10)]
UPDATES: dict[int, dict[bytes, Update]] = {
    s: _UNCHANGED | dict.fromkeys(_DIGITS, Update(Outcome.ADVANCED, s)) | {b"+": Update(Outcome.CREATED, s)}
    for s in KVPoll
}
"""The result of an update, by its status and the first byte of update_one.lua's reply: a status, an id, or + and an
id."""
_NAMES: dict[int, str] = {s: s.name for s in KVPoll}
_USUAL = frozenset((KVPoll, int, type(None)))
"""The types of the argument. A float may equal a status, and a list is none that a dict could look up."""
_FIRST = range(1)


class PackedCommand:
    """A command with the key of one room. ``words`` are those for room 0; ``ends`` its last words, by argument.

    ``more`` words come behind them.
    """

    def __init__(self, words: Sequence[str], key: str, ends: Mapping[Any, Sequence[str]], more: int = 0) -> None:
        at, count = words.index(key), len(words) + len(next(iter(ends.values()))) + more
        start = key.removesuffix("0")
        self._head = f"*{count}\r\n{_bulk(words[:at])}$"
        self._start, self._length = f"\r\n{start}", len(start)
        self._ends = {argument: f"\r\n{_bulk([*words[at + 1 :], *end])}" for argument, end in ends.items()}

    def pack(self, room: Any, argument: KVPoll | int | None, more: str = "") -> bytes | None:
        """Return the command for a room, with ``more`` packed words.

        None if an argument is not of the usual type, or out of range.
        """
        if room.__class__ is not int or argument.__class__ not in _USUAL or not 0 <= room <= MAX_ROOM:
            return None
        if (end := self._ends.get(argument)) is None:
            return None
        number = str(room)
        return f"{self._head}{self._length + len(number)}{self._start}{number}{end}{more}".encode()


def update_command(context: CallContext, has_source: bool = False) -> PackedCommand:
    """The call that merges a status other than Failed; with the script's source, for a server that lacks it."""
    return _merge_command(UPDATE_ONE, context, has_source)


def get_command(context: CallContext) -> PackedCommand:
    """The command that reads a status. It is what poll.lua does."""
    (key,) = keys.rooms(context.namespace, [0])
    return PackedCommand(["HGET", key], key, {None: ["status"]})


class PackedWrite:
    """Fenced updates: the call that merges a status other than Failed into one generation of a room."""

    def __init__(self, context: CallContext, has_source: bool = False) -> None:
        self._call = WRITE.call(context, context.namespace, [0], [], _FIRST)
        self._keys = [key.removesuffix("0") for key in self._call.room_keys]
        self._packed = _merge_command(ADVANCE_ONE, context, has_source, more=1)

    def pack(self, room: int, generation: int, status: KVPoll | int) -> tuple[bytes, Call] | None:
        """Return the bytes, and the call of write.lua that does the same; None as ``PackedCommand.pack``."""
        number = str(generation)
        packed = self._packed.pack(room, status, f"${len(number)}\r\n{number}\r\n")
        if packed is None:
            return None
        spec, tag, shard_keys, shared_args, *_ = self._call
        keys_here = [f"{start}{room}" for start in self._keys]
        return packed, Call(spec, tag, shard_keys, shared_args, [room], keys_here, [_NAMES[status], number, ""], _FIRST)


def update_reply(reply: bytes, status: str) -> list[Any]:
    """Return the reply of update_one.lua as update.lua would have given it."""
    outcome = UPDATES[KVPoll[status]][reply[:1]].outcome
    if outcome is Outcome.UNCHANGED:
        return [None, outcome.value, reply]
    return [reply.removeprefix(b"+"), outcome.value, status.encode()]


def _merge_command(spec: ScriptSpec, context: CallContext, has_source: bool, more: int = 0) -> PackedCommand:
    """A script that gets ttl_ms and status behind the key of the room, and ``more`` words behind those."""
    call = spec.call(context, context.namespace, [0], [], _FIRST)
    words = call.words()
    if has_source:
        words[:2] = ["EVAL", spec.script.source]
    ends = {status: (context.ttl_ms, status.name) for status in _EARLY}
    ends[KVPoll.Success] = (context.terminal_ttl_ms, KVPoll.Success.name)
    return PackedCommand(words, call.room_keys[0], ends, more)


def _bulk(words: Sequence[str]) -> str:
    return "".join([f"${len(word.encode())}\r\n{word}\r\n" for word in words])
