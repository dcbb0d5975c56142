"""Extends the TTL of a lease's rooms, as part of its heartbeats.

A shard that is away keeps no other from it: what failed there is tried again by the next heartbeat.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.leases.reaper import rooms_of
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.protocol import keys, room_commands
from redis_kvpoll.protocol.script_call import CallContext
from redis_kvpoll.protocol.script_specs import TOUCH


def touch_interval(context: CallContext) -> float:
    """Seconds between touches: a third of the TTL, so that one touch may fail."""
    return int(context.ttl_ms) / 1000 / 3


class RoomTouches:
    """What is left to touch of one lease's rooms, and when they are due again."""

    def __init__(self, executor: Executor) -> None:
        self.due_at = 0.0
        self.left: list[tuple[str, list[int]]] = []
        """Rooms to touch, with their shard: at most as many as one call takes."""
        self._unlisted: list[str] = []
        """The shards whose rooms are not known yet."""
        self._executor = executor

    def clear(self) -> None:
        """Touch nothing any more."""
        self.left, self._unlisted = [], []

    def run(
        self, context: CallContext, incarnation: str, away: Collection[str], until: float, call_seconds: float
    ) -> Flow[None]:
        """Touch what is due, except in the shards that are ``away``, until ``until``; the next run continues.

        Each call may take ``call_seconds``. After two failures it ends, and the next run begins with other shards.

        Raises:
            KVPollError: the first failure.
        """
        if time.monotonic() >= self.due_at:
            self._unlisted, self.left = keys.tags(context.namespace, context.shards), []
            self.due_at = time.monotonic() + touch_interval(context)
        away = set(away)
        failures = [(yield from self._list(context, incarnation, away, call_seconds))]
        failures.append((yield from self._touch(away, until, call_seconds)))
        for error in filter(None, failures):
            raise error

    def _list(
        self, context: CallContext, incarnation: str, away: set[str], call_seconds: float
    ) -> Flow[KVPollError | None]:
        """List the rooms of each shard until one fails, which is then away; return its error."""
        for tag in [tag for tag in self._unlisted if tag not in away]:
            give_up_at = time.monotonic() + call_seconds
            try:
                rooms = yield from rooms_of(self._executor, context, tag, incarnation, give_up_at=give_up_at)
            except KVPollError as error:
                self._unlisted.sort(key=tag.__eq__)  # the last of the next run
                away.add(tag)
                return error
            self._unlisted.remove(tag)
            self.left += [(tag, rooms[at : at + TOUCH.max_rooms]) for at in range(0, len(rooms), TOUCH.max_rooms)]
        return None

    def _touch(self, away: set[str], until: float, call_seconds: float) -> Flow[KVPollError | None]:
        """Touch rooms until a call fails; return its error."""
        for part in self.left[::-1]:
            tag, rooms = part
            if tag in away:
                continue
            try:
                yield from self._executor.run(room_commands.touch(rooms), [], time.monotonic() + call_seconds)
            except KVPollError as error:
                self.left.sort(key=lambda other: other[0] != tag)  # the last of the next run, which begins at the end
                return error
            self.left.remove(part)
            if time.monotonic() >= until:
                break
        return None
