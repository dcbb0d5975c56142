"""Operations through a generation: what a process holds, and how it brings that back after the server lost it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from redis_kvpoll import KVPoll, Outcome, Update
from redis_kvpoll.commands import Command, handles, replies, shapes
from redis_kvpoll.commands.forming import only
from redis_kvpoll.commands.replies import Opened
from tests.model.operations import Operation, Process
from tests.model.table import ROOM

REASON = "failed through a handle"


class Held(NamedTuple):
    """What a store keeps of a room that it opened or attached. Bytes, which are renamed with their generation."""

    generation: bytes
    request: bytes
    status: bytes
    role: bytes
    """As in restate: opener, guest, or cleared."""
    reason: bytes = b""

    def for_writing(self) -> Held | None:
        """What matters where nothing is to be restated."""
        return None if self.role == b"cleared" else Held(self.generation, b"", b"", b"")


def fence(process: Process) -> str | None:
    return process.held.generation.decode() if process.held else None


def _through(build: Callable[[int], Command[Any, Any]]) -> Callable[[Process], Command[Any, Any] | None]:
    """A command for who holds a room that it has not cleared."""

    def command(process: Process) -> Command[Any, Any] | None:
        held = process.held
        return build(int(held.generation)) if held and held.role != b"cleared" else None

    return command


def _learn_status(process: Process, value: Any) -> Process:
    if not isinstance(value, Update):
        return process
    if value.outcome is Outcome.STALE:
        return process._replace(held=None)
    if value.status is None:
        return process
    reason = REASON.encode() if value.outcome is Outcome.FAILED else process.held.reason
    return process._replace(held=process.held._replace(status=value.status.name.encode(), reason=reason))


def _learn_clear(process: Process, value: Any) -> Process:
    if value.outcome is Outcome.CLEARED and value.status is not None and process.kind_has_rank:
        return process._replace(held=process.held._replace(status=value.status.name.encode(), role=b"cleared"))
    return process._replace(held=None)


def _learn_opened(role: bytes) -> Callable[[Process, Any], Process]:
    def learn(process: Process, value: Any) -> Process:
        if not isinstance(value, Opened):
            return process
        status = value.status.name.encode() if value.status is not None else b""
        request = (value.request or "").encode()
        held = Held(b"%d" % value.generation, request, status, role)
        return process._replace(held=held, seen=max(held.generation, process.seen))

    return learn


def _open(request: str) -> Operation:
    def command(process: Process) -> Command[Any, Any]:
        return handles.open(ROOM, request, KVPoll.Bootstrapping, int(process.seen or 0))

    return Operation(f"open for {request}", command, _learn_opened(b"opener"), creates=True)


def _update(status: KVPoll) -> Operation:
    command = _through(lambda generation: handles.update(ROOM, generation, status))
    return Operation(f"room.update {status.name}", command, _learn_status, lambda _: status.name, fence)


def _restate(process: Process) -> Command[Any, Any]:
    held = process.held
    words = [word.decode() for word in (held.generation, held.request, held.status, held.reason, b"", held.role)]
    return Command("restate", shapes.RESTATE, [ROOM], words, replies.updates, only)


def _learn_restated(process: Process, value: Any) -> Process:
    return _learn_status(process, value)._replace(must_restate=False) if process.held else process


OPENINGS = (
    _open("a"),
    _open("b"),
    Operation("attach", lambda _: handles.attach(ROOM), _learn_opened(b"guest"), reads=True),
)
FENCED = (
    *[_update(status) for status in KVPoll if status],
    Operation(
        "room.fail",
        _through(lambda generation: handles.fail(ROOM, generation, REASON)),
        _learn_status,
        lambda _: "Failed",
        fence,
    ),
    Operation(
        "room.clear",
        _through(lambda generation: handles.finish(ROOM, generation)),
        _learn_clear,
        fence=fence,
        clears=True,
    ),
)
BIND = Operation(
    "room.set_decode_prefix_len",
    _through(lambda generation: handles.bind_decode_prefix_len(ROOM, generation, 7)),
    fence=fence,
)
RESTATE = Operation(
    "restate", _restate, _learn_restated, lambda process: process.held.status.decode() or None, fence, creates=True
)
