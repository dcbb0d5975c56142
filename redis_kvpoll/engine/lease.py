"""Takes, renews and releases one lease, and extends the TTL of its rooms.

A lease is held in all shards under one incarnation: once it is lost in one shard, it is dropped in the others.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

from redis_kvpoll.engine.effects import AwaitCalls, Flow, PendingCall
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.reaper import reap_lost, rooms_of
from redis_kvpoll.errors import KVPollError, LeaseLostError
from redis_kvpoll.protocol import keys, lease_commands, room_commands
from redis_kvpoll.protocol.lease_commands import Action, LeaseConfig, LeaseReport
from redis_kvpoll.protocol.script_call import MAX_BATCH, Call, CallContext

OPERATION = "lease"
TRIES = 3
"""Attempts to take a lease while other processes take the same name."""

logger = logging.getLogger("redis_kvpoll.leases")


class LeaseKeeper:
    """One lease of one store."""

    def __init__(self, executor: Executor, config: LeaseConfig) -> None:
        self.config = config
        self.incarnation = ""
        """Empty until the lease is taken."""
        self.lost = False
        self._executor = executor
        self._context: CallContext | None = None
        self._next_heartbeat = 0.0
        self._next_touch = 0.0
        self._to_touch: list[list[int]] = []
        self._is_failing = False

    @property
    def name(self) -> str:
        return self.config.name

    def take(self) -> Flow[None]:
        """Take the lease, put the store under it, and fail the rooms of earlier incarnations.

        Raises:
            LeaseLostError: other processes took the same name at the same time.
        """
        self._executor.session.check_writable(OPERATION)
        context = self._context = yield from self._executor.context(OPERATION)
        self._executor.recovery.check_no_lease()
        self.lost, seen = False, ""
        for _ in range(TRIES):
            reports = yield from self._take(context, seen)
            seen = max(report.incarnation for report in reports.values())
            if seen == self.incarnation:
                break
        else:
            yield from self._drop()
            raise LeaseLostError(OPERATION, self.name)
        now = time.monotonic()
        self._next_heartbeat, self._next_touch = now + self._interval, now + self._touch_after
        self._executor.recovery.attach_lease(self, self.name, self.incarnation)
        with contextlib.suppress(KVPollError):  # the heartbeat repeats what fails here
            for tag, report in reports.items():
                yield from reap_lost(self._executor, context, tag, report.lost, self._next_heartbeat)

    def _take(self, context: CallContext, seen: str) -> Flow[dict[str, LeaseReport]]:
        """Get an incarnation from the first shard and extend it to the others. Returns the report of each shard."""
        first, *others = self._tags
        replies = yield from self._executor.send_calls(OPERATION, [self.config.call(context, first, "take", seen)])
        self.incarnation = lease_commands.parse_report(replies[0]).incarnation
        calls = [self.config.call(context, tag, "extend", self.incarnation) for tag in others]
        if calls:
            replies += yield from self._executor.send_calls(OPERATION, calls)
        return dict(zip(self._tags, map(lease_commands.parse_report, replies), strict=True))

    # Renewal: by the heartbeat, and by recovery before it replays the rooms of a shard

    def renewal(self, tag: str, epoch: str) -> Call:
        """Return the call that renews the lease in a shard. A missing lease is lost if the shard has this epoch."""
        action: Action = "sweep" if self.lost else "renew"  # a renewal would re-create it after a data loss
        return self.config.call(self._verified_context, tag, action, self.incarnation, epoch)

    def observe_renewal(self, tag: str, reply: list[Any]) -> None:
        """Process the reply to ``renewal``."""
        if lease_commands.parse_report(reply).state != "held":
            self.lose()

    def lose(self) -> None:
        """Note that the lease is lost: its rooms were failed, or will be, so none is replayed."""
        if not self.lost:
            self.lost = True
            self._executor.recovery.tracked_rooms.forget()
            logger.error("%s", LeaseLostError(f"namespace {self._executor.namespace!r}", self.name))

    def check(self, operation: str) -> None:
        """Raise LeaseLostError if the lease is known to be lost."""
        if self.lost:
            raise LeaseLostError(operation, self.name)

    # The heartbeat

    def seconds_until_heartbeat(self) -> float:
        """Seconds until the next heartbeat is due."""
        return max(0.0, self._next_heartbeat - time.monotonic())

    def send_heartbeat(self) -> Flow[None]:
        """Renew the lease in all shards, fail the rooms of lost leases, and touch its rooms, as time permits."""
        now = time.monotonic()
        until = self._next_heartbeat = now + self._interval
        pending_calls = yield from self._renew(now)
        if self.lost:
            return (yield from self._drop())
        for pending in pending_calls:
            if pending.reply is not None:
                tag, lost = pending.call.tag, lease_commands.parse_report(pending.reply).lost
                yield from reap_lost(self._executor, self._verified_context, tag, lost, until)
        self._executor.replies_of(OPERATION, pending_calls)
        yield from self._touch(now, until)
        if self._is_failing:
            self._is_failing = False
            logger.info("%s is renewed again", self)

    def heartbeat_failed(self, error: KVPollError) -> None:
        """Log a failed heartbeat, once per run of failures. The next heartbeat tries again."""
        if not self._is_failing:
            self._is_failing = True
            logger.warning("%s was not renewed: %s", self, error)

    def _renew(self, now: float) -> Flow[list[PendingCall]]:
        """Renew the lease in all shards that are reachable. Returns the calls, some of which may have failed."""
        seconds = self._executor.deadline
        if len(self._tags) > 1 and (self._is_failing or seconds > self.config.ttl):
            seconds = min(seconds, self.config.ttl / 3)  # an unreachable shard must not delay the renewal in the others
        epoch_of = self._executor.recovery.epoch_of
        pending_calls = [PendingCall(self.renewal(tag, epoch_of(tag)), now + seconds) for tag in self._tags]
        yield AwaitCalls(pending_calls)
        for pending in pending_calls:
            if pending.reply is not None:
                self.observe_renewal(pending.call.tag, pending.reply)
        return pending_calls

    def _touch(self, now: float, until: float) -> Flow[None]:
        """Extend the TTL of its rooms until ``until``; the next heartbeat continues."""
        if now >= self._next_touch:
            self._to_touch = []
            for tag in self._tags:
                rooms = yield from rooms_of(self._executor, self._verified_context, tag, self.incarnation)
                self._to_touch += [rooms[at : at + MAX_BATCH] for at in range(0, len(rooms), MAX_BATCH)]
            self._next_touch = now + self._touch_after
        while self._to_touch:
            yield from self._executor.run(room_commands.touch(self._to_touch.pop()), [])
            if time.monotonic() >= until:
                return

    # Giving up

    def give_up(self) -> Flow[None]:
        """Give up the lease and fail its live rooms. If the server is unreachable, the lease expires by itself."""
        self._executor.recovery.detach_lease(self)
        if self._context is None or self.lost:
            return
        try:
            calls = [self.config.call(self._verified_context, tag, "leave", self.incarnation) for tag in self._tags]
            replies = yield from self._executor.send_calls(OPERATION, calls)
            for tag, reply in zip(self._tags, replies, strict=True):
                yield from reap_lost(
                    self._executor, self._verified_context, tag, lease_commands.parse_report(reply).lost
                )
        except KVPollError as error:
            logger.warning("%s was not given up and will expire: %s", self, error)

    def _drop(self) -> Flow[None]:
        """Drop a lost lease in the shards that still have it."""
        self._to_touch = []
        if len(self._tags) > 1:
            with contextlib.suppress(KVPollError):
                calls = [self.config.call(self._verified_context, tag, "drop", self.incarnation) for tag in self._tags]
                yield from self._executor.send_calls(OPERATION, calls)

    @property
    def _verified_context(self) -> CallContext:
        assert self._context is not None  # noqa: S101 - set when the lease was taken
        return self._context

    @property
    def _tags(self) -> list[str]:
        return keys.tags(self._verified_context.namespace, self._verified_context.shards)

    @property
    def _interval(self) -> float:
        """Seconds between heartbeats."""
        return min(self.config.heartbeat, self._touch_after)

    @property
    def _touch_after(self) -> float:
        """Seconds between touches: a third of the TTL, so that one touch may fail."""
        return int(self._verified_context.ttl_ms) / 1000 / 3

    def __str__(self) -> str:
        return f"the lease of owner {self.name!r} of namespace {self._executor.namespace!r}"
