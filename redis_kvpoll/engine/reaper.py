"""Sweeping leases, and failing the rooms of lost ones.

Any process may run this at any time: the scripts fail each room once, and the next sweep continues an interrupted run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace

from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.model import Owner
from redis_kvpoll.protocol import keys, lease_commands, room_commands
from redis_kvpoll.protocol.script_call import CallContext

OPERATION = "reap"


def reap(executor: Executor) -> Flow[int]:
    """Sweep the leases of all shards once and fail the rooms of lost ones. Returns the number of rooms failed."""
    executor.session.check_writable(OPERATION)
    context = yield from executor.context(OPERATION)
    tags = keys.tags(context.namespace, context.shards)
    replies = yield from executor.send_calls(OPERATION, [lease_commands.sweep(context, tag) for tag in tags])
    failed = 0
    for tag, reply in zip(tags, replies, strict=True):
        failed += yield from reap_lost(executor, context, tag, lease_commands.parse_report(reply).lost)
    return failed


def reap_lost(
    executor: Executor, context: CallContext, tag: str, lost: Mapping[str, str], until: float = math.inf
) -> Flow[int]:
    """Fail the live rooms of lost incarnations in one shard. Returns the number of rooms failed.

    After ``until`` it stops at the end of a chunk; the next sweep continues. Other processes may do the same
    concurrently; each room is failed once.
    """
    failed = 0
    for incarnation, reason in lost.items():
        while True:
            reply = yield from executor.send_command(OPERATION, tag, lease_commands.list_owned(tag, incarnation))
            rooms = lease_commands.parse_owned(context, tag, reply)
            if not rooms:
                break
            command = lease_commands.reap(rooms, incarnation, reason)
            failed += yield from executor.run(command, [])
            if time.monotonic() >= until:
                return failed
    if lost:  # a sweep removes lost incarnations without rooms
        yield from executor.send_calls(OPERATION, [lease_commands.sweep(context, tag)])
    return failed


def owners(executor: Executor) -> Flow[list[Owner]]:
    """Return all leases, oldest first. Writes nothing."""
    context = yield from executor.context("owners")
    found: dict[tuple[str, int], Owner] = {}
    for tag in keys.tags(context.namespace, context.shards):
        seconds, micros = yield from executor.send_command("owners", tag, ["TIME"])
        words = yield from executor.send_command("owners", tag, ["HGETALL", keys.leases(tag)])
        flat = [word for pair in words.items() for word in pair] if isinstance(words, dict) else words
        for owner in lease_commands.parse_owners(flat, int(seconds) + int(micros) / 1e6):
            rooms = yield from rooms_of(executor, context, tag, str(owner.incarnation))
            statuses = yield from executor.run(room_commands.survey(rooms), [])
            live = sum(status is not None and not status.is_terminal for status in statuses)
            other = found.get((owner.name, owner.incarnation))
            worst = max(owner, other, key=lambda owner: _STATES.index(owner.state)) if other else owner
            found[owner.name, owner.incarnation] = replace(worst, rooms=live + (other.rooms if other else 0))
    return sorted(found.values(), key=lambda owner: owner.incarnation)


def rooms_of(executor: Executor, context: CallContext, tag: str, incarnation: str) -> Flow[list[int]]:
    """Return the rooms that an incarnation owns in one shard."""
    rooms: list[int] = []
    at = 0
    while True:
        reply = yield from executor.send_command("owners", tag, lease_commands.list_owned(tag, incarnation, at))
        if not reply:
            return rooms
        rooms += lease_commands.parse_owned(context, tag, reply)
        at += len(reply)


_STATES = ("alive", "expired", "suspected", "lost")
"""From best to worst. A lease is shown in the worst state that a shard has for it."""
