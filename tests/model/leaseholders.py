"""The processes of the lease explorer: what each knows, may do next, and learns; and the rooms that it recovers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from redis_kvpoll import KVPoll, Outcome, Update
from redis_kvpoll.engine.leases.reaper import reap_lost
from redis_kvpoll.errors import KVPollError, LeaseLostError
from redis_kvpoll.protocol import fenced_commands as fenced
from redis_kvpoll.protocol import lease_commands, replies, room_commands
from redis_kvpoll.protocol.lease_commands import LeaseConfig
from redis_kvpoll.protocol.replies import OpenedRoom
from redis_kvpoll.protocol.script_call import Call, CallContext, Command, only
from tests.model import handles
from tests.model.operations import context
from tests.model.table import NAMESPACE, ROOM

TTL_MS, HEARTBEAT_MS, APART_MS = 1000, 100, 600
"""The last is the least distance of two sweeps: 0.6 s, since two heartbeats are less."""


class Holder(NamedTuple):
    """One process: its lease, its store, and its reaping of lost leases."""

    name: str
    owner: str
    """The name of its lease; empty for a process that only sweeps."""
    left: int
    incarnation: str = ""
    epoch: str = ""
    """The epoch in which its lease is known to be held."""
    handle: bytes = b""
    held: Any = None
    ended: bytes = b""
    seen: bytes = b""
    reaping: tuple[tuple[str, str], ...] = ()
    """The lost leases that it learned of, with their reasons; and all replies since it began to fail their rooms."""
    replies: tuple[Any, ...] = ()
    must_renew: bool = False
    must_replay: bool = False

    def learn_of(self, found: lease_commands.LeaseReport) -> Holder:
        if self.reaping:
            return self
        return self._replace(reaping=tuple(sorted(found.lost.items())), replies=())

    def without_lease(self) -> Holder:
        """A store tracks no rooms once its lease is lost."""
        return self._replace(incarnation="", epoch="", held=None, must_renew=False, must_replay=False)


class Sent(NamedTuple):
    """A call, with what the invariants need to know of it. It may be under way for long."""

    name: str
    script: str
    keys: tuple[str, ...]
    argv: tuple[str, ...]
    owner: str = ""
    incarnation: str = ""
    """The lease under which it was sent."""
    words: tuple[int, ...] = ()
    """How many words of the reply precede those of its rooms."""


def value_of(script: str, reply: list[Any]) -> Any:
    """The result of a call on the room, or the exception."""
    try:
        return only([ROOM], _DECODERS[script](script, [ROOM], reply))
    except KVPollError as error:
        return error


_DECODERS: dict[str, Callable[..., list[Any]]] = {
    "open": replies.openings,
    "clear": lambda _, rooms, reply: replies.clearings("clear", rooms, reply),
    "replay": handles.replayed,
    **dict.fromkeys(("update", "write", "reap"), replies.updates),
}


@cache
def context_of(owner: str, incarnation: str, nonce: str) -> CallContext:
    return replace(context("strict"), owner=owner, incarnation=incarnation, nonce=nonce)


def sent(name: str, process: Holder, call: Call) -> Sent:
    keys, argv = tuple(call.all_keys), (*call.shared_args, *call.room_args)
    spec = call.spec
    return Sent(name, spec.script.name, keys, argv, process.owner, process.incarnation, (spec.feed, spec.epoch))


# Leases


def lease_call(process: Holder, action: lease_commands.Action, nonce: str) -> Call:
    where = context_of("", "", nonce)
    if action == "sweep":
        return lease_commands.sweep(where, NAMESPACE)
    config = LeaseConfig(process.owner, TTL_MS / 1000, HEARTBEAT_MS / 1000, HEARTBEAT_MS / 1000)
    return config.call(where, NAMESPACE, action, process.incarnation, process.epoch)


def heartbeat_call(holders: list[Holder], nonce: str) -> Call:
    """The heartbeat of some holders, as one call."""
    where, calls = context_of("", "", nonce), []
    for one in holders:
        config = LeaseConfig(one.owner, TTL_MS / 1000, HEARTBEAT_MS / 1000, HEARTBEAT_MS / 1000)
        calls.append(config.heartbeat_call(where, NAMESPACE, one.incarnation))
    return calls[0].merged_with(calls[1:])


def after_lease_call(
    process: Holder, action: lease_commands.Action, epoch: str, found: lease_commands.LeaseReport
) -> Holder:
    if action == "leave":
        return process.without_lease().learn_of(found)
    if action in ("take", "renew"):
        if found.state != "held":
            return process.without_lease()
        process = process._replace(incarnation=found.incarnation, epoch=epoch, must_renew=False)
    return process.learn_of(found)


# Reaping: the real generator, fed again with all replies so far


class _Wire:
    """An executor that yields its calls."""

    def send_command(self, _: str, tag: str, words: list[str]) -> Iterator[Any]:
        return (yield words)

    def run(self, command: Command[Any, Any], _: list[int]) -> Iterator[Any]:
        return (yield command)

    def send_calls(self, _: str, calls: list[Call]) -> Iterator[Any]:
        return (yield calls[0])


def next_of_reaping(process: Holder, nonce: str) -> Any:
    """What the generator sends next: words, a Command or a Call; None when it has ended."""
    effects = reap_lost(_Wire(), context_of("", "", nonce), dict(process.reaping))  # type: ignore[arg-type]
    try:
        effect = next(effects)
        for reply in process.replies:
            effect = effects.send(list(reply) if type(reply) is tuple else reply)
    except StopIteration:
        return None
    return effect


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
SWEEPER_OPERATIONS = (ROOMS[3], Operation("clear", lambda _: room_commands.clear(ROOM)))


def replays(process: Holder, nonce: str) -> Call | None:
    where = context_of(process.owner, process.incarnation, nonce)
    held = handles.store_of(process, where)  # type: ignore[arg-type]
    held.data_lost(NAMESPACE, handles.NOW)
    return next(held.replays(NAMESPACE, where, handles.NOW), None)


def observed(process: Holder, call: Call, reply: list[Any], value: Any, nonce: str) -> Holder:
    """The process after the reply to a call on the room."""
    if isinstance(value, LeaseLostError):
        return process.without_lease()
    process = handles.observed(process, context_of(process.owner, process.incarnation, nonce), call, reply)  # type: ignore
    if isinstance(value, OpenedRoom):
        return process._replace(handle=b"%d" % value.generation, ended=b"")
    is_over = call.spec.script.name in ("write", "clear") and isinstance(value, Update)
    if is_over and value.outcome in (Outcome.STALE, Outcome.CLEARED):
        return process._replace(handle=b"", held=None)
    return process
