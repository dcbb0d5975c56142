"""A lease in all shards of its table: taken in the first and extended to the others, and ended in all.

It is in all of them so that each can refuse the writes of a lost one (see protocol/lease_commands.py).
"""

from __future__ import annotations

from typing import Any, Literal

from redis_kvpoll.engine.effects import Flow, PendingCall
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.leases.reaper import reap_lost
from redis_kvpoll.protocol import keys, lease_commands
from redis_kvpoll.protocol.lease_commands import LeaseConfig
from redis_kvpoll.protocol.script_call import CallContext

OPERATION = "lease"


def take(executor: Executor, context: CallContext, config: LeaseConfig, seen: str) -> Flow[tuple[str, list[list[Any]]]]:
    """Get an incarnation from the first shard and extend it to the others. Returns it, and the replies.

    The incarnation is above ``seen``, the highest one that another shard has; empty if none is known.
    """
    first, *others = keys.tags(context.namespace, context.shards)
    replies = yield from executor.send_calls(OPERATION, [config.call(context, first, "take", seen)])
    incarnation = lease_commands.parse_report(replies[0]).incarnation
    calls = [config.call(context, tag, "extend", incarnation) for tag in others]
    if calls:
        replies += yield from executor.send_calls(OPERATION, calls)
    return incarnation, replies


def end(
    executor: Executor, context: CallContext, config: LeaseConfig, incarnation: str, action: Literal["leave", "drop"]
) -> Flow[None]:
    """End a lease and fail its live rooms: as those of an owner that has left, or with drop of one that is lost."""
    calls = [config.call(context, tag, action, incarnation) for tag in keys.tags(context.namespace, context.shards)]
    replies = yield from executor.send_calls(OPERATION, calls)
    yield from reap_lost(executor, context, lease_commands.lost_in(replies))


def reports(pending_calls: list[PendingCall]) -> list[tuple[str, list[Any]]]:
    """Return the shard and the reply of each call of lease.lua that has one."""
    return [
        (pending.call.tag, pending.reply)
        for pending in pending_calls
        if pending.reply is not None and pending.call.spec is lease_commands.LEASE
    ]
