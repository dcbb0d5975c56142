"""Operations through a generation, and what a store holds of it: by the real Held, which brings it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from redis_kvpoll import KVPoll, Outcome, Update
from redis_kvpoll.engine.tracked_rooms import CLEARING, Claim, Held
from redis_kvpoll.protocol import fenced_commands, replies, script_specs
from redis_kvpoll.protocol.building import only
from redis_kvpoll.protocol.replies import Opened
from redis_kvpoll.protocol.script_call import Call, Command, Layout
from tests.model.operations import Operation, Process
from tests.model.table import NAMESPACE, ROOM

REASON = "failed through a handle"
TTL, NOW = 1e9, 0.0
"""Seconds. What a store holds does not end here: expiry is the server's."""


class Claimed(NamedTuple):
    """A Claim that does not change. Bytes, which are renamed with their generation."""

    generation: bytes
    request: bytes
    role: bytes
    status: bytes
    reason: bytes
    length: bytes
    is_ending: bool
    waits: bool

    @classmethod
    def of(cls, claim: Claim) -> Claimed:
        status = claim.status.name if claim.status is not None else ""
        words = (str(claim.generation), claim.request, claim.role, status, claim.reason, claim.length)
        return cls(*[word.encode() for word in words], claim.is_ending, claim.waits_since is not None)

    def claim(self) -> Claim:
        generation, request, role, status, reason, length = (word.decode() for word in self[:6])
        held = Claim(int(generation), request, role, KVPoll[status] if status else None, TTL, reason, length)  # type: ignore[arg-type]
        held.is_ending, held.waits_since = self.is_ending, NOW if self.waits else None
        return held


def store_of(process: Process, layout: Layout) -> Held:
    """What the process's store holds."""
    held = Held(TTL, TTL, bool(layout.rank))
    held.seen = int(process.seen or 0)
    if process.held:
        held._shards[NAMESPACE] = {ROOM: process.held.claim()}
        if process.held.waits:
            held._in_vain[NAMESPACE] = {ROOM: None}
    return held


def _with(process: Process, held: Held) -> Process:
    claim = held.claims(NAMESPACE).get(ROOM)
    seen = b"%d" % held.seen if held.seen else b""
    return process._replace(held=Claimed.of(claim) if claim else None, seen=seen)


def sent(process: Process, layout: Layout, call: Call) -> Process:
    """The process as it forms a call: what it clears is not to be brought back."""
    if call.shape not in CLEARING or process.held is None:
        return process
    held = store_of(process, layout)
    held.end(call)
    fence = call.items[0].encode()
    is_over = not layout.rank and fence in (b"", process.held.generation)  # a rank leaves its last status behind
    return _with(process, held)._replace(ended=process.held.generation if is_over else process.ended)


def heard(process: Process, layout: Layout, call: Call, reply: list[Any]) -> Process:
    """The process's store hears a reply."""
    held = store_of(sent(process, layout, call), layout)
    held.hear(call, reply, NOW)
    return _with(process, held)


def fence(process: Process) -> str | None:
    return process.handle.decode() or None


def _through(build: Callable[[int], Command[Any, Any]]) -> Callable[[Process, Layout], Command[Any, Any] | None]:
    """A command for who has a handle."""
    return lambda process, _: build(int(process.handle)) if process.handle else None


def _learn_stale(process: Process, value: Any) -> Process:
    """Who is told that the generation is not its own any more, writes to it no more."""
    is_over = isinstance(value, Update) and value.outcome in (Outcome.STALE, Outcome.CLEARED)
    return process._replace(handle=b"") if is_over else process


def _learn_opened(process: Process, value: Any) -> Process:
    return process._replace(handle=b"%d" % value.generation, ended=b"") if isinstance(value, Opened) else process


def _open(request: str) -> Operation:
    def command(process: Process, _: Layout) -> Command[Any, Any]:
        return fenced_commands.open(ROOM, request, KVPoll.Bootstrapping, int(process.seen or 0))

    return Operation(f"open for {request}", command, _learn_opened, creates=True)


def _update(status: KVPoll) -> Operation:
    command = _through(lambda generation: fenced_commands.update(ROOM, generation, status))
    return Operation(f"room.update {status.name}", command, _learn_stale, lambda _: status.name, fence)


def _restate(process: Process, layout: Layout) -> Command[Any, Any] | None:
    """What the store says of its rooms; None when there is nothing that it would bring back."""
    held = store_of(process, layout)
    if process.must_restate:
        held.lose(NAMESPACE, NOW)
    for call in held.restating(NAMESPACE, layout, NOW):
        return Command("restate", script_specs.RESTATE, call.rooms, call.items, replies.updates, only)
    return None


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
RESTATE = Operation(
    "restate",
    _restate,
    says=lambda process: process.held.status.decode() or None,
    fence=lambda process: process.held.generation.decode(),
    creates=True,
)
