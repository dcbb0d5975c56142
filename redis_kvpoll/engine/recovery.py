"""Detection of lost data, and the replay of this store's rooms.

Another epoch means that a shard has lost its data. Another run id with the same epoch (a promoted replica, a server
restarted with its data on disk) means that it may have lost the latest writes. In both cases the store replays its
tracked rooms before any other call goes to that shard. The call that detects the loss does it, so a clear that is
queued behind it takes effect after the replay.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable
from typing import Any, Protocol

from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.engine.retry import Attempts, CallFailed
from redis_kvpoll.engine.session import ObserverEpochs, Session
from redis_kvpoll.engine.tracked_rooms import CLEARING, TrackedRooms
from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.script_call import Call, CallContext, Command
from redis_kvpoll.protocol.script_specs import OPEN, UPDATE, WRITE

_RUN_ID = re.compile(rb"^run_id:(\w+)", re.MULTILINE)


class Renewable(Protocol):
    """A lease, as far as recovery needs it: it is renewed before the rooms that it owns are replayed."""

    lost: bool
    """Whether it is known to be lost. A lost lease is not taken again, even if the server has forgotten that."""

    def renewal(self, tag: str) -> Call:
        """Return the call that renews the lease in a shard, or takes it again after a loss of data."""

    def observe_renewal(self, tag: str, reply: list[Any]) -> object:
        """Process the reply to ``renewal``."""

    def check(self, operation: str) -> None:
        """Raise LeaseLostError if it is known to be lost."""


UNDER_LEASE = (UPDATE, WRITE, OPEN)
"""The scripts that a store with a lost lease must not call, even where the shard does not know of the loss."""


class Recovery(Session):
    """A session that tracks its store's rooms, and the epoch and run id of each shard."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        ttl_ms, terminal_ttl_ms = int(self._identity.ttl_ms), int(self._identity.terminal_ttl_ms)
        self.tracked_rooms = TrackedRooms(ttl_ms / 1000, terminal_ttl_ms / 1000, bool(self._identity.rank))
        self.lease: Renewable | None = None
        self._epochs: dict[str, bytes] = {}
        self._run_ids: dict[str, bytes] = {}
        """The run id of each shard's server at the last check; empty if the server does not report one."""
        self._unverified: set[str] = set()
        """Shards to verify before the next call, because they may have lost data."""
        self._unrenewed: set[str] = set()
        """Shards that have lost data and where the lease, if any, must be renewed before the replay."""

    def connection_lost(self) -> None:
        super().connection_lost()
        self._unverified.update(self.tracked_rooms.tags)
        if self.lease is not None and self._context is not None:
            self._unverified.update(keys.tags(self._context.namespace, self._context.shards))

    def shard_moved(self, tag: str) -> bool:
        """Note that another server has a shard now, maybe a lagging replica. Returns whether to verify it."""
        if not self.tracked_rooms.in_shard(tag) and self.lease is None:
            return False
        self.losses += 1
        self._unverified.add(tag)
        return True

    def check_no_lease(self) -> None:
        """Raise InvalidInputError if this store holds a lease."""
        if self.lease is not None:
            raise InvalidInputError(f"lease: this store has {self.lease} already; one store holds one lease at a time")

    def attach_lease(self, lease: Renewable, owner: str, incarnation: str) -> None:
        """Put this store under a lease; raise InvalidInputError if it already holds one."""
        self.check_no_lease()
        self.lease = lease
        self.set_owner(owner, incarnation)

    def detach_lease(self, lease: Renewable) -> None:
        """Take this store from under a lease. Does nothing if it is not under this one."""
        if self.lease is lease:
            self.lease = None
            self.set_owner("", "")

    def mark_unverified(self, tags: Iterable[str]) -> None:
        """Verify these shards before their next call, because they may have lost data."""
        self._unverified.update(tags)

    def needs_check(self, tag: str) -> bool:
        """Whether a shard must be verified before a call is sent to it."""
        return tag in self._unverified or (
            tag in self.tracked_rooms.awaiting_shards and self.tracked_rooms.awaiting_shards[tag] <= time.monotonic()
        )

    def build_calls(self, command: Command[Any, Any], context: CallContext) -> list[Call]:
        """Return a command's calls. Rooms that they clear are no longer replayed."""
        if self.lease is not None and command.spec in UNDER_LEASE:
            self.lease.check(command.operation)
        calls = command.calls(context)
        if self.tracked_rooms and command.spec in CLEARING:
            for call in calls:
                self.tracked_rooms.mark_clearing(call)
        return calls

    def detects_data_loss(self, call: Call, reply: list[Any]) -> bool:
        """Whether a reply shows that the shard has lost data, so that the call must be sent again after the replay."""
        spec, tag = call.spec, call.tag
        if not spec.epoch or self.read_only:  # a store that only reads has nothing to replay
            return False
        epoch, known = reply[1 if spec.feed else 0], self._epochs.get(tag)
        if epoch == known:
            return False
        if known is None:
            if tag in self._unverified and self.lease is not None and spec.repeatable:
                return True  # a retry may have reached a server that does not know the lease
            if epoch is not None:
                self._epochs[tag] = epoch
                self._unverified.add(tag)  # to learn its run id
            return False
        self._unverified.add(tag)
        return spec.repeatable

    def process_reply(self, call: Call, epochs: ObserverEpochs, reply: list[Any]) -> list[Any]:
        reply = super().process_reply(call, epochs, reply)
        if not self.read_only and (self.tracked_rooms or call.spec.epoch):
            self.tracked_rooms.observe(call, reply, time.monotonic())
        return reply

    def prepare(self, tag: str, attempts: Attempts) -> Flow[None]:
        """Do what must precede a call to a shard: verify the settings, and the shard if needed."""
        if not self.settings_verified:
            yield from self.verify_settings(attempts)
        if self.needs_check(tag):
            yield from self.verify_shard(tag, attempts)
        while tag in self._unverified:  # data was lost, or lost again during the replay
            if not self.settings_verified:
                yield from self.verify_settings(attempts)
            yield from self.verify_shard(tag, attempts)

    def verify_shard(self, tag: str, attempts: Attempts) -> Flow[None]:
        """Check the epoch and run id of a shard, and replay the tracked rooms if data may be lost.

        A deadline or an interrupt may stop this at any effect; the next call continues it.
        """
        losses = self.losses
        if tag in self._unverified:
            epoch = yield from attempts.send_command(tag, ["HGET", keys.epoch(tag), "epoch"])
            run_id = yield from self._run_id_of(tag, attempts)
            if epoch != self._epochs.get(tag, epoch):
                self._settings_valid_until = 0.0  # lost as well, and nothing is replayed under other settings
                self._mark_lost(tag)
            elif run_id != self._run_ids.get(tag, run_id):
                self._mark_lost(tag)
            self._run_ids[tag] = run_id
            if epoch is not None:
                self._epochs[tag] = epoch
            else:
                self._epochs.pop(tag, None)  # the first write creates it
        if self.settings_verified and (yield from self._replay(tag, attempts)) and self.losses == losses:
            self._unverified.discard(tag)

    def _mark_lost(self, tag: str) -> None:
        self._unrenewed.add(tag)
        self.tracked_rooms.mark_lost(tag, time.monotonic())

    def _replay(self, tag: str, attempts: Attempts) -> Flow[bool]:
        """Renew the lease and replay the rooms that are due. Returns False if the shard changed during it."""
        context = self._context
        assert context is not None  # noqa: S101 - set by the first call, before any room is tracked
        losses = self.losses
        if self.lease is not None and not self.lease.lost and tag in self._unrenewed:
            reply = yield from attempts.send_script(self.lease.renewal(tag), auxiliary=True)
            self.lease.observe_renewal(tag, reply)
            if self.losses != losses or not self._has_same_epoch(tag, reply[0]):
                return False
        self._unrenewed.discard(tag)
        for call in self.tracked_rooms.replays(tag, context, time.monotonic()):
            epochs = self.observer_epochs()
            reply = yield from attempts.send_script(call, auxiliary=True)
            if self.losses != losses or not self._has_same_epoch(tag, reply[1]):
                return False  # data may have been lost again, and the lease with it; prepare repeats this
            self.process_reply(call, epochs, reply)
        return True

    def _has_same_epoch(self, tag: str, epoch: bytes) -> bool:
        """Whether a shard still has the known epoch; if not, it must be verified again."""
        if self._epochs.setdefault(tag, epoch) == epoch:
            return True
        self._unverified.add(tag)
        return False

    def _run_id_of(self, tag: str, attempts: Attempts) -> Flow[bytes]:
        """Return the run id of a shard's server; empty if it does not report one."""
        try:
            info = yield from attempts.send_command(tag, ["INFO", "server"])
        except CallFailed as failure:
            if failure.until != math.inf:
                raise  # only time ran out
            return b""  # fakeredis has no INFO, and an ACL may deny it
        found = _RUN_ID.search(info)
        return found[1] if found else b""
