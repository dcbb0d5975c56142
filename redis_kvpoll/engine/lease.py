"""What the holder of a lease knows of it, and does: take it, keep it and its rooms alive, give it up. No I/O."""

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
"""To take a lease, while others take its name at the same time."""

logger = logging.getLogger("redis_kvpoll.leases")


class LeaseKeeper:
    """One lease of one store, in all shards under one incarnation."""

    def __init__(self, executor: Executor, config: LeaseConfig) -> None:
        self.config = config
        self.incarnation = ""
        """Empty before it was taken."""
        self.lost = False
        self._executor = executor
        self._context: CallContext | None = None
        self._epochs: dict[str, str] = {}
        self._next_heartbeat = 0.0
        self._next_touch = 0.0
        self._to_touch: list[list[int]] = []
        self._complained = False

    @property
    def name(self) -> str:
        return self.config.name

    def take(self) -> Flow[None]:
        """Take the lease, and fail what a former incarnation has left. From now on the store works under it."""
        context = self._context = yield from self._executor.context(OPERATION)
        self._executor.check_no_lease()
        self.lost, self._epochs, seen = False, {}, ""
        for _ in range(TRIES):
            found = yield from self._take(context, seen)
            seen = max(one.incarnation for one in found.values())
            if seen == self.incarnation:
                break
        else:
            yield from self._drop()
            raise LeaseLostError(OPERATION, self.name)
        now = time.monotonic()
        self._next_heartbeat, self._next_touch = now + self._interval, now + self._touch_after
        self._executor.attach_lease(self, self.name, self.incarnation)
        with contextlib.suppress(KVPollError):  # what fails here, the heartbeat does
            for tag, lease_report in found.items():
                yield from reap_lost(self._executor, context, tag, lease_report.lost, self._next_heartbeat)

    def _take(self, context: CallContext, seen: str) -> Flow[dict[str, LeaseReport]]:
        """An incarnation from the first shard, brought to the others; what each of them says."""
        first, *others = self._tags
        replies = yield from self._executor.send_calls(OPERATION, [self.config.call(context, first, "take", seen)])
        self.incarnation = lease_commands.parse_report(replies[0]).incarnation
        calls = [self.config.call(context, tag, "extend", self.incarnation) for tag in others]
        if calls:
            replies += yield from self._executor.send_calls(OPERATION, calls)
        found = dict(zip(self._tags, map(lease_commands.parse_report, replies), strict=True))
        self._epochs = {tag: lease_report.epoch for tag, lease_report in found.items()}
        return found

    # Renewing: by the heartbeat, and by the store before it says again what a shard has lost

    def renewal(self, tag: str) -> Call:
        """What keeps the lease alive in a shard, or takes it again there when all data was lost."""
        action: Action = "sweep" if self.lost else "renew"  # or it would live again where the data was lost
        return self.config.call(self._verified_context, tag, action, self.incarnation, self._epochs.get(tag, ""))

    def observe_renewal(self, tag: str, reply: list[Any]) -> None:
        """The reply to that."""
        lease_report = lease_commands.parse_report(reply)
        if lease_report.state == "held":
            self._epochs[tag] = lease_report.epoch
        else:
            self.lose()

    def lose(self) -> None:
        """Somebody took this process for dead. The rooms are failed, or will be."""
        if not self.lost:
            self.lost = True
            self._executor.tracked_rooms.forget()
            logger.error("%s", LeaseLostError(f"namespace {self._executor.namespace!r}", self.name))

    def check(self, operation: str) -> None:
        """Raise LeaseLostError if it is known to be lost."""
        if self.lost:
            raise LeaseLostError(operation, self.name)

    # The heartbeat

    def seconds_until_heartbeat(self) -> float:
        """Seconds until the next heartbeat is due."""
        return max(0.0, self._next_heartbeat - time.monotonic())

    def send_heartbeat(self) -> Flow[None]:
        """Renew the lease everywhere, look at the others', and keep the own rooms alive, as far as there is time."""
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
        if self._complained:
            self._complained = False
            logger.info("%s is renewed again", self)

    def heartbeat_failed(self, error: KVPollError) -> None:
        """A heartbeat could not be sent, or was refused. The next tries again."""
        if not self._complained:
            self._complained = True
            logger.warning("%s was not renewed: %s", self, error)

    def _renew(self, now: float) -> Flow[list[PendingCall]]:
        """Renew the lease in all shards, as far as they are there."""
        seconds = self._executor.deadline
        if len(self._tags) > 1 and (self._complained or seconds > self.config.ttl):
            seconds = min(seconds, self.config.ttl / 3)  # a shard that is away must not keep the others waiting
        pending_calls = [PendingCall(self.renewal(tag), now + seconds) for tag in self._tags]
        yield AwaitCalls(pending_calls)
        known = dict(self._epochs)
        for pending in pending_calls:
            if pending.reply is not None:
                self.observe_renewal(pending.call.tag, pending.reply)
        if again := [tag for tag in self._tags if self._epochs[tag] != known[tag]]:
            # Data was lost, and the connection was not: what the store holds there is said again before the next call.
            self._executor.mark_unverified(again)
            yield AwaitCalls([PendingCall(self.renewal(tag), now + seconds) for tag in again])
        return pending_calls

    def _touch(self, now: float, until: float) -> Flow[None]:
        """Keep the own rooms alive, as many as there is time for; with the next heartbeat, the others."""
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

    # The end

    def give_up(self) -> Flow[None]:
        """Leave; the live rooms fail. What cannot be said now, the others find out when the lease lapses."""
        self._executor.detach_lease(self)
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
            logger.warning("%s was not given up, and will lapse: %s", self, error)

    def _drop(self) -> Flow[None]:
        """Lost in one shard, it must not live on in others: it is never half alive."""
        self._to_touch = []
        if len(self._tags) > 1:
            with contextlib.suppress(KVPollError):
                calls = [self.config.call(self._verified_context, tag, "drop", self.incarnation) for tag in self._tags]
                yield from self._executor.send_calls(OPERATION, calls)

    @property
    def _verified_context(self) -> CallContext:
        assert self._context is not None  # noqa: S101 - it was taken
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
        """Seconds. A live room is touched twice before its TTL is over."""
        return int(self._verified_context.ttl_ms) / 1000 / 3

    def __str__(self) -> str:
        return f"the lease of owner {self.name!r} of namespace {self._executor.namespace!r}"
