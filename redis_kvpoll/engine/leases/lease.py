"""Takes, renews and releases one lease, and extends the TTL of its rooms.

A lease is held in all shards under one incarnation: once it is lost in one shard, it is dropped in the others. The
first shard decides whether it has expired, so heartbeats go there; the others are visited now and then, and when the
first has lost its data.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import Any, Literal

from redis_kvpoll.engine.effects import AwaitCalls, Flow, PendingCall
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.leases.lease_shards import OPERATION, end, reports, take
from redis_kvpoll.engine.leases.lease_state import LeaseState
from redis_kvpoll.engine.leases.reaper import reap_lost
from redis_kvpoll.engine.leases.room_touches import RoomTouches, touch_interval
from redis_kvpoll.engine.leases.settings_renewal import renew_settings
from redis_kvpoll.engine.recovery.lease_holder import never
from redis_kvpoll.engine.recovery.members import RankMember
from redis_kvpoll.engine.recovery.recovery import Recovery
from redis_kvpoll.errors import KVPollError, LeaseLostError
from redis_kvpoll.protocol import keys, lease_commands
from redis_kvpoll.protocol.lease_commands import Action, LeaseConfig
from redis_kvpoll.protocol.script_call import Call, CallContext

SWEEP_INTERVAL = 0.1
"""Seconds between sweeps of a shard at least, whoever sweeps."""
SWEEP_DELAY = 0.5
"""Retry intervals between the time when a lease is due and the sweep that checks it: after a pause of the server, the
heartbeat of its owner may come first."""
TRIES = 3
"""Attempts to take a lease while other processes take the same name."""

logger = logging.getLogger("redis_kvpoll.leases")


class LeaseKeeper:
    """One lease of a store, or of one of its members: the holder."""

    def __init__(self, executor: Executor, config: LeaseConfig, holder: Recovery | RankMember | None = None) -> None:
        self.config = config
        self.incarnation = ""
        """Empty until the lease is taken."""
        self.lost = False
        self._has_stopped = False
        self._executor = executor
        self._holder = executor.recovery if holder is None else holder
        self._context: CallContext | None = None
        self._next_heartbeat = 0.0
        self._touches = RoomTouches(executor)
        self._visited: dict[str, float] = {}
        """When the lease was last renewed in each shard but the first."""
        self.trouble = ""
        """Why the latest heartbeat failed; empty once one has succeeded."""
        self.stands_still: Callable[[], bool] = never

    @property
    def name(self) -> str:
        return self.config.name

    def take(self) -> Flow[None]:
        """Take the lease, put the store under it, and fail the rooms of earlier incarnations.

        Raises:
            LeaseLostError: other processes took the same name at the same time.
        """
        context, seen = (yield from self._reserve()), ""
        for _ in range(TRIES):
            self.incarnation, replies = yield from take(self._executor, context, self.config, seen)
            seen = max((lease_commands.parse_report(reply).incarnation for reply in replies), key=int)
            if seen == self.incarnation:
                break
        else:
            yield from self._drop_everywhere()
            raise LeaseLostError(OPERATION, self.name)
        now = time.monotonic()
        self._next_heartbeat, self._touches.due_at = now + self._interval, now + touch_interval(context)
        self._visited = dict.fromkeys(self._tags[1:], now)
        self._holder.attach_lease(self, self.name, self.incarnation)
        with contextlib.suppress(KVPollError):  # the heartbeat repeats what fails here
            yield from reap_lost(self._executor, context, lease_commands.lost_in(replies), self._next_heartbeat)

    def resume(self, state: LeaseState) -> Flow[None]:
        """Hold a lease that another store took, and fail no room; raise LeaseLostError if it is lost."""
        context, self.incarnation = (yield from self._reserve()), state.incarnation
        epochs = dict(state.epochs)
        calls = [self.config.call(context, tag, "renew", self.incarnation, epochs.get(tag, "")) for tag in self._tags]
        replies = yield from self._executor.send_calls(OPERATION, calls)
        if any(lease_commands.parse_report(reply).state != "held" for reply in replies):
            self.lost = True
            raise LeaseLostError(OPERATION, self.name)
        now = time.monotonic()
        self._next_heartbeat, self._touches.due_at = now + self._interval, now
        self._visited = dict.fromkeys(self._tags[1:], now)
        self._holder.attach_lease(self, self.name, self.incarnation)

    def _reserve(self) -> Flow[CallContext]:
        """Reserve the holder for this lease; return the context. After any error the caller calls stop_renewing."""
        self._holder.reserve(self)  # before anything is waited for: who enters first holds it
        self._executor.session.check_writable(OPERATION)
        context = self._context = yield from self._executor.context(OPERATION)
        self.lost = self._has_stopped = False
        return context

    @property
    def state(self) -> LeaseState:
        """What another store needs to resume it."""
        epoch_of = self._executor.recovery.epoch_of
        return LeaseState(self.incarnation, tuple((tag, epoch_of(tag)) for tag in self._tags))

    # Renewal: by the heartbeat, and by recovery before and while it replays the rooms of a shard

    @property
    def retry_interval(self) -> float:
        """Seconds between heartbeats after one has failed."""
        return self.config.retry_interval

    def renewal(self, tag: str, epoch: str) -> Call:
        """Return the call that renews the lease in a shard, or only sweeps once it is lost; see Renewable."""
        action: Action = "sweep" if self.lost else "renew"
        return self.config.call(self._verified_context, tag, action, self.incarnation, epoch)

    def observe_renewal(self, reply: list[Any]) -> None:
        """Process the reply to ``renewal``."""
        if lease_commands.parse_report(reply).state != "held":
            self.lose()

    def lose(self) -> None:
        """Note that the lease is lost: its rooms were failed, or will be, so none is replayed."""
        if self.lost or self._holder.lease is not self:
            return
        self._holder.tracked_rooms.forget()
        if not self._has_stopped:  # while it is released, a heartbeat under way may find it gone
            self.lost = True
            logger.error("%s", LeaseLostError(f"namespace {self._executor.namespace!r}", self.name))

    def check(self, operation: str) -> None:
        """Raise LeaseLostError if the lease is known to be lost."""
        if self.lost:
            raise LeaseLostError(operation, self.name)

    # The heartbeat

    def seconds_until_heartbeat(self) -> float:
        """Seconds until the next heartbeat is due."""
        return max(0.0, self._next_heartbeat - time.monotonic())

    @property
    def may_send_heartbeat(self) -> bool:
        """Whether a heartbeat may be sent already, together with that of another lease."""
        return self.seconds_until_heartbeat() <= self._interval / 2

    def send_heartbeat(self) -> Flow[None]:
        """Renew the lease where that is due, and do what else is the task of its holder.

        It sweeps if that is due, fails the rooms of lost leases, touches its own rooms, as far as there is time until
        the next heartbeat, and renews the settings. Once the lease is lost, it is dropped everywhere instead.

        Raises:
            KVPollError: a call failed. The next heartbeat tries again what is left.
        """
        now = time.monotonic()
        until = self._next_heartbeat = now + self._interval
        tags = [self._tags[0], *self._due_visits(now)]
        pending_calls = yield from self._renew(now, tags)
        others = [tag for tag in self._tags if tag not in tags]
        if self._executor.recovery.needs_check(others):  # they may have lost data
            pending_calls += yield from self._renew(now, others)
        if self.lost:
            return (yield from self._drop_everywhere(until))
        lost = lease_commands.lost_in(reply for _, reply in reports(pending_calls))
        yield from reap_lost(self._executor, self._verified_context, lost, until)
        away = {pending.call.tag for pending in pending_calls if pending.failure is not None}
        if not away or self._executor.recovery.is_clustered:
            yield from self._touches.run(self._verified_context, self.incarnation, away, until, self._call_seconds)
        self._executor.replies_of(OPERATION, pending_calls)
        if self._executor.session.must_renew_settings(now):
            yield from renew_settings(self._executor.session)
        if self.trouble:
            self.trouble = ""
            logger.info("%s is renewed again", self)

    def heartbeat_failed(self, error: KVPollError) -> None:
        """Log a failed heartbeat, once per run of failures. The next heartbeat tries again."""
        self._next_heartbeat = min(self._next_heartbeat, time.monotonic() + self.config.retry_interval)
        if not self.trouble:
            logger.warning("%s was not renewed: %s", self, error)
        self.trouble = str(error)

    def _renew(self, now: float, tags: list[str]) -> Flow[list[PendingCall]]:
        """Renew the lease in those shards that are reachable, and sweep where one is due.

        Returns the calls, some of which may have failed.
        """
        context, unsettled = self._verified_context, tags
        pending_calls: list[PendingCall] = []
        if not self.lost:
            calls = [self.config.heartbeat_call(context, tag, self.incarnation) for tag in tags]
            pending_calls = yield from self._send_in_time(now, calls)
            replies = {pending.call.tag: pending.reply for pending in pending_calls if pending.reply is not None}
            unsettled = [tag for tag, reply in replies.items() if not lease_commands.is_settled(reply)]
        if unsettled:
            epoch_of = self._executor.recovery.epoch_of
            calls = [self.renewal(tag, epoch_of(tag)) for tag in unsettled]
            pending_calls += yield from self._send_in_time(now, calls)
        for tag, reply in reports(pending_calls):
            self.observe_renewal(reply)
            if tag == self._tags[0]:
                next_sweep = lease_commands.parse_report(reply).next_sweep + SWEEP_DELAY * self.config.retry_interval
                self._next_heartbeat = min(self._next_heartbeat, now + max(next_sweep, SWEEP_INTERVAL))
        for pending in pending_calls:
            if pending.reply is not None and pending.call.tag in self._visited:
                self._visited[pending.call.tag] = now
        return pending_calls

    def _send_in_time(self, now: float, calls: list[Call]) -> Flow[list[PendingCall]]:
        pending_calls = [PendingCall(call, now + self._call_seconds) for call in calls]
        yield AwaitCalls(pending_calls)
        return pending_calls

    def _due_visits(self, now: float) -> list[str]:
        """Return the shards other than the first in which the lease is to be renewed now."""
        rooms, ttl = self._holder.tracked_rooms, self.config.ttl
        found = []
        for tag, visited in self._visited.items():
            ttls = lease_commands.AWAY_INTERVAL_TRACKED if rooms.in_shard(tag) else lease_commands.AWAY_INTERVAL
            if now >= visited + min(ttls * ttl, lease_commands.LONGEST_INTERVAL):
                found.append(tag)
        return found

    # Its end

    def stop_renewing(self) -> None:
        """Leave the lease as it is: it expires, unless another store resumes it. May be repeated."""
        self._has_stopped = True
        self._holder.detach_lease(self)

    def release(self) -> Flow[None]:
        """End the lease, and fail its rooms: their owner left. If the server is out of reach, it expires by itself."""
        try:
            yield from self._end("leave")
        except KVPollError as error:
            logger.warning("%s was not released and will expire: %s", self, error)

    def end_as_lost(self) -> Flow[None]:
        """End the lease of a process that is known to be dead, and fail its live rooms as those of a lost owner."""
        yield from self._end("drop")

    def _end(self, action: Literal["leave", "drop"]) -> Flow[None]:
        self._has_stopped = True
        try:
            if self._context is not None and not self.lost:
                yield from end(self._executor, self._context, self.config, self.incarnation, action)
        finally:
            self.stop_renewing()  # not before: if these calls notice a loss of data, its rooms come back as its own

    def _drop_everywhere(self, until: float = math.inf) -> Flow[None]:
        """Drop the lease, which is lost, in the shards that still have it, and fail what it has there."""
        self._touches.clear()
        if len(self._tags) > 1:
            lost = {self.incarnation: f"owner {self.name} lost"}
            with contextlib.suppress(KVPollError):
                yield from reap_lost(self._executor, self._verified_context, lost, until)

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
        interval = self.config.retry_interval if self.trouble else self.config.interval
        return min(interval, touch_interval(self._verified_context))

    @property
    def _call_seconds(self) -> float:
        """Seconds for a call of a heartbeat: a shard that is away must not delay the next one in the others."""
        seconds = self._executor.deadline
        return min(seconds, self.config.ttl / 3) if len(self._tags) > 1 else seconds

    def __str__(self) -> str:
        return f"the lease of owner {self.name!r} of namespace {self._executor.namespace!r}"
