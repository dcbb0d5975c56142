"""Who takes part where leases are explored: what each knows, may do next, and learns; and the rooms it brings back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from redis_kvpoll import KVPoll, Outcome, Update
from redis_kvpoll.engine.reaper import reap_lost
from redis_kvpoll.errors import KVPollError, LeaseLostError
from redis_kvpoll.protocol import fenced_commands as fenced
from redis_kvpoll.protocol import lease_commands, replies, room_commands
from redis_kvpoll.protocol.lease_commands import LeaseConfig
from redis_kvpoll.protocol.replies import Opened
from redis_kvpoll.protocol.script_call import Call, CallContext, Command, only
from tests.model import handles
from tests.model.operations import context
from tests.model.table import NAMESPACE, ROOM

TTL_MS, HEARTBEAT_MS, APART_MS = 1000, 100, 600
"""The last is how far apart two looks must be: six tenths of a second, since two heartbeats are less."""


class Holder(NamedTuple):
    """One process: of a holder of a lease, of its store, and of what it does about the lost ones of others."""

    name: str
    owner: str
    """Under which name it takes its lease; empty for who only looks."""
    left: int
    incarnation: str = ""
    epoch: str = ""
    """In which it knows its lease to be held."""
    handle: bytes = b""
    held: Any = None
    ended: bytes = b""
    seen: bytes = b""
    reaping: tuple[tuple[str, str], ...] = ()
    """The lost ones of which it was told, and why; and all that it was told since it began to fail their rooms."""
    replies: tuple[Any, ...] = ()
    must_renew: bool = False
    must_replay: bool = False

    def hear_of(self, found: lease_commands.LeaseReport) -> Holder:
        if self.reaping:
            return self
        return self._replace(reaping=tuple(sorted(found.lost.items())), replies=())

    def without_lease(self) -> Holder:
        """A store forgets what it holds when its lease is lost."""
        return self._replace(incarnation="", epoch="", held=None, must_renew=False, must_replay=False)


class Sent(NamedTuple):
    """A call, and what must be known of it to classify_failure what it did. It may be under way for long."""

    name: str
    script: str
    keys: tuple[str, ...]
    argv: tuple[str, ...]
    owner: str = ""
    incarnation: str = ""
    """The lease under which it was sent."""
    words: tuple[int, ...] = ()
    """How many words of the reply go before what its rooms are told."""


def value_of(script: str, reply: list[Any]) -> Any:
    """What comes of a call on the room, or the exception."""
    try:
        return only([ROOM], _DECODERS[script](script, [ROOM], reply))
    except KVPollError as error:
        return error


_DECODERS: dict[str, Callable[..., list[Any]]] = {
    "open": replies.openings,
    "clear": lambda _, rooms, reply: replies.clearings("clear", rooms, reply),
    **dict.fromkeys(("update", "write", "replay", "reap"), replies.updates),
}


@cache
def layout_of(owner: str, incarnation: str, nonce: str) -> CallContext:
    return replace(context("strict"), owner=owner, incarnation=incarnation, nonce=nonce, words={})


def sent(name: str, process: Holder, call: Call) -> Sent:
    keys, argv = (*call.first_keys, *call.keys), (*call.once, *call.items)
    spec = call.spec
    return Sent(name, spec.script.name, keys, argv, process.owner, process.incarnation, (spec.feed, spec.epoch))


# Leases


def lease_call(process: Holder, action: lease_commands.Action, nonce: str) -> Call:
    where = layout_of("", "", nonce)
    if action == "sweep":
        return lease_commands.sweep(where, NAMESPACE)
    config = LeaseConfig(process.owner, TTL_MS / 1000, HEARTBEAT_MS / 1000)
    return config.call(where, NAMESPACE, action, process.incarnation, process.epoch)


def heard_of_lease(process: Holder, action: lease_commands.Action, found: lease_commands.LeaseReport) -> Holder:
    if action == "leave":
        return process.without_lease().hear_of(found)
    if action in ("take", "renew"):
        if found.state != "held":
            return process.without_lease()
        process = process._replace(incarnation=found.incarnation, epoch=found.epoch, must_renew=False)
    return process.hear_of(found)


# The rooms of the lost: the real flow, told again all that it has heard so far


class _Wire:
    """A executor that lets somebody else carry its calls."""

    def ask(self, _: str, tag: str, words: list[str]) -> Iterator[Any]:
        return (yield words)

    def run(self, command: Command[Any, Any], _: list[int]) -> Iterator[Any]:
        return (yield command)

    def send(self, _: str, calls: list[Call]) -> Iterator[Any]:
        return (yield calls[0])


def next_of_reaping(process: Holder, nonce: str) -> Any:
    """What the flow sends next: words, a Command or a Call; None when it has ended."""
    flow = reap_lost(_Wire(), layout_of("", "", nonce), NAMESPACE, dict(process.reaping))  # type: ignore[arg-type]
    try:
        wish = next(flow)
        for reply in process.replies:
            wish = flow.send(list(reply) if isinstance(reply, tuple) else reply)
    except StopIteration:
        return None
    return wish


# Rooms


class Operation(NamedTuple):
    name: str
    command: Callable[[Holder], Command[Any, Any] | None]
    """None when the process has no reason to."""


def _through(build: Callable[[int], Command[Any, Any]]) -> Callable[[Holder], Command[Any, Any] | None]:
    return lambda process: build(int(process.handle)) if process.handle else None


ROOMS = (
    Operation("open", lambda p: fenced.open(ROOM, p.name, KVPoll.Bootstrapping, int(p.seen or 0))),
    Operation("room.update Success", _through(lambda g: fenced.update(ROOM, g, KVPoll.Success))),
    Operation("room.clear", _through(lambda g: fenced.clear(ROOM, g))),
    Operation("update WaitingForInput", lambda _: room_commands.update_status(ROOM, KVPoll.WaitingForInput)),
)
LOOKERS = (ROOMS[3], Operation("clear", lambda _: room_commands.clear(ROOM)))


def replays(process: Holder, nonce: str) -> Call | None:
    where = layout_of(process.owner, process.incarnation, nonce)
    held = handles.store_of(process, where)  # type: ignore[arg-type]
    held.mark_lost(NAMESPACE, handles.NOW)
    return next(held.replays(NAMESPACE, where, handles.NOW), None)


def heard(process: Holder, call: Call, reply: list[Any], value: Any, nonce: str) -> Holder:
    """The process after the reply to a call on the room."""
    if isinstance(value, LeaseLostError):
        return process.without_lease()
    process = handles.heard(process, layout_of(process.owner, process.incarnation, nonce), call, reply)  # type: ignore
    if isinstance(value, Opened):
        return process._replace(handle=b"%d" % value.generation, ended=b"")
    is_over = call.spec.script.name in ("write", "clear") and isinstance(value, Update)
    if is_over and value.outcome in (Outcome.STALE, Outcome.CLEARED):
        return process._replace(handle=b"", held=None)
    return process
