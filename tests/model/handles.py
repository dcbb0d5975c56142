"""Operations through a generation, and the real TrackedRooms of a store, which recovers it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from redis_kvpoll import KVPoll, Outcome, Update
from redis_kvpoll.engine.recovery import tracking
from redis_kvpoll.engine.recovery.tracked_rooms import TrackedRooms
from redis_kvpoll.engine.recovery.tracked_state import TrackedRoom
from redis_kvpoll.protocol import fenced_commands, replies, script_specs
from redis_kvpoll.protocol.replies import OpenedRoom
from redis_kvpoll.protocol.script_call import Call, CallContext, Command, only
from tests.model.operations import Operation, Process
from tests.model.table import NAMESPACE, ROOM
from tests.support.internals import track_one_room

REASON = "failed through a handle"
TTL, NOW = 1e9, 0.0
"""Seconds. Tracked rooms do not expire in the model."""


class Claimed(NamedTuple):
    """An immutable TrackedRoom, in bytes, whose generation can be renamed."""

    generation: bytes
    request: bytes
    role: bytes
    status: bytes
    reason: bytes
    length: bytes
    is_clearing: bool
    waits: bool

    @classmethod
    def of(cls, tracked: TrackedRoom) -> Claimed:
        status = tracked.status.name if tracked.status is not None else ""
        words = (str(tracked.generation), tracked.request, tracked.role, status, tracked.reason, tracked.length)
        return cls(*[word.encode() for word in words], tracked.is_clearing, tracked.awaiting_since is not None)

    def tracked(self) -> TrackedRoom:
        generation, request, role, status, reason, length = (word.decode() for word in self[:6])
        held = TrackedRoom(int(generation), request, role, KVPoll[status] if status else None, TTL, reason, length)  # type: ignore[arg-type]
        held.is_clearing, held.awaiting_since = self.is_clearing, NOW if self.waits else None
        return held


def store_of(process: Process, context: CallContext) -> TrackedRooms:
    """The tracked rooms of a process's store."""
    held = TrackedRooms(TTL, TTL, bool(context.rank))
    held.highest_generation = int(process.seen or 0)
    if process.held:
        track_one_room(held, NAMESPACE, ROOM, process.held.tracked(), awaits_creator=process.held.waits)
    return held


def _with(process: Process, held: TrackedRooms) -> Process:
    tracked = held.in_shard(NAMESPACE).get(ROOM)
    seen = b"%d" % held.highest_generation if held.highest_generation else b""
    return process._replace(held=Claimed.of(tracked) if tracked else None, seen=seen)


def sent(process: Process, context: CallContext, call: Call) -> Process:
    """The process once it has built a call: a room that it clears is not recovered."""
    if call.spec not in tracking.CLEARING or process.held is None:
        return process
    held = store_of(process, context)
    held.mark_room_clearing(NAMESPACE, ROOM, call.room_args[0])
    fence = call.room_args[0].encode()
    is_over = not context.rank and fence in (
        b"",
        process.held.generation,
    )  # the last status of a rank stays
    return _with(process, held)._replace(ended=process.held.generation if is_over else process.ended)


def observed(process: Process, context: CallContext, call: Call, reply: list[Any]) -> Process:
    """The process once its store has observed a reply."""
    held = store_of(sent(process, context, call), context)
    tracking.observe(held, call, reply, None, NOW)
    return _with(process, held)


def fence(process: Process) -> str | None:
    return process.handle.decode() or None


def _through(build: Callable[[int], Command[Any, Any]]) -> Callable[[Process, CallContext], Command[Any, Any] | None]:
    """A command through the process's handle; None without one."""
    return lambda process, _: build(int(process.handle)) if process.handle else None


def _learn_stale(process: Process, value: Any) -> Process:
    """A process whose write is stale drops its handle."""
    is_over = isinstance(value, Update) and value.outcome in (Outcome.STALE, Outcome.CLEARED)
    return process._replace(handle=b"") if is_over else process


def _learn_opened(process: Process, value: Any) -> Process:
    return process._replace(handle=b"%d" % value.generation, ended=b"") if isinstance(value, OpenedRoom) else process


def _open(request: str) -> Operation:
    def command(process: Process, _: CallContext) -> Command[Any, Any]:
        return fenced_commands.open(ROOM, request, KVPoll.Bootstrapping, int(process.seen or 0))

    return Operation(f"open for {request}", command, _learn_opened, creates=True)


def _update(status: KVPoll) -> Operation:
    command = _through(lambda generation: fenced_commands.update(ROOM, generation, status))
    return Operation(f"room.update {status.name}", command, _learn_stale, lambda _: status.name, fence)


def _replay(process: Process, context: CallContext) -> Command[Any, Any] | None:
    """The store's replay; None when there is nothing to recover."""
    held = store_of(process, context)
    if process.must_replay:
        held.data_lost(NAMESPACE, NOW)
    for call in held.replays(NAMESPACE, context, NOW):
        return Command("replay", script_specs.REPLAY, call.rooms, call.room_args, replayed, only)
    return None


def replayed(operation: str, rooms: list[int], reply: list[Any]) -> list[Update]:
    return replies.updates(operation, rooms, [word for at in range(0, len(reply), 3) for word in reply[at : at + 2]])


OPENINGS = (
    _open("a"),
    _open("b"),
    Operation("attach", lambda *_: fenced_commands.attach(ROOM), _learn_opened, reads=True),
)
FENCED = (
    *[_update(status) for status in KVPoll if status],
    Operation(
        "room.fail",
        _through(lambda generation: fenced_commands.fail(ROOM, generation, REASON)),
        _learn_stale,
        lambda _: "Failed",
        fence,
    ),
    Operation(
        "room.clear",
        _through(lambda generation: fenced_commands.clear(ROOM, generation)),
        _learn_stale,
        fence=fence,
        clears=True,
    ),
)
BIND = Operation(
    "room.set_decode_prefix_len",
    _through(lambda generation: fenced_commands.set_decode_prefix_len(ROOM, generation, 7)),
    fence=fence,
)
REPLAY = Operation(
    "replay",
    _replay,
    says=lambda process: process.held.status.decode() or None,
    fence=lambda process: process.held.generation.decode(),
    creates=True,
)
