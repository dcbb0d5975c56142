"""Bringing back what a server has lost: who notices that, and what is said then, in which order. No I/O.

A shard has lost data when its epoch is another one; a server that is another one (a replica that was promoted, the same
program started again with what was on its disk) may have lost the last moments, with the epoch in place. In both cases
the store says again what it holds, before anything else goes to that shard: on the batch that noticed, so that what is
cleared later is cleared after it.
"""

from __future__ import annotations

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
    """A lease, as far as restating needs to know of it: who owns rooms must live before they are brought back."""

    lost: bool
    """Known to be lost: then it is not to be taken again, though the server may not know any more that it was."""

    def renewal(self, tag: str) -> Call:
        """What keeps the lease alive in a shard, or takes it again there."""

    def observe_renewal(self, tag: str, reply: list[Any]) -> object:
        """The reply to that."""

    def check(self, operation: str) -> None:
        """Raise LeaseLostError if it is known to be lost."""


UNDER_LEASE = (UPDATE, WRITE, OPEN)
"""What a store whose lease is lost may not do, whatever the shard would say."""


class Recovery(Session):
    """A Session that also knows what its store holds, and which of the shards are still those that it knew."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        ttl_ms, terminal_ttl_ms = int(self._identity.ttl_ms), int(self._identity.terminal_ttl_ms)
        self.tracked_rooms = TrackedRooms(ttl_ms / 1000, terminal_ttl_ms / 1000, bool(self._identity.rank))
        self.lease: Renewable | None = None
        self._epochs: dict[str, bytes] = {}
        self._run_ids: dict[str, bytes] = {}
        """The run id of the server that each shard was last found on; empty where it does not say."""
        self._unverified: set[str] = set()
        """Shards to look at before the next call: data that is held there may be lost."""
        self._unrenewed: set[str] = set()
        """Shards that were lost, where the lease, if there is one, is to be taken again first."""

    def connection_lost(self) -> None:
        super().connection_lost()
        self._unverified.update(self.tracked_rooms.tags)
        if self.lease is not None and self._context is not None:
            self._unverified.update(keys.tags(self._context.namespace, self._context.shards))

    def shard_moved(self, tag: str) -> bool:
        """Another server has a shard now, maybe a replica of it that lagged. Whether that is to be looked into."""
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
        """From now on this store works under a lease."""
        self.check_no_lease()
        self.lease = lease
        self.set_owner(owner, incarnation)

    def detach_lease(self, lease: Renewable) -> None:
        """From now on it does not, if it did under this one."""
        if self.lease is lease:
            self.lease = None
            self.set_owner("", "")

    def mark_unverified(self, tags: Iterable[str]) -> None:
        """Look at these shards before the next call: data that is held there may be lost."""
        self._unverified.update(tags)

    def needs_check(self, tag: str) -> bool:
        """Whether a shard must be looked at before a call may go there."""
        return tag in self._unverified or (
            tag in self.tracked_rooms.awaiting_shards and self.tracked_rooms.awaiting_shards[tag] <= time.monotonic()
        )

    def build_calls(self, command: Command[Any, Any], context: CallContext) -> list[Call]:
        """A command's calls. What they clear is from now on not brought back."""
        if self.lease is not None and command.spec in UNDER_LEASE:
            self.lease.check(command.operation)
        calls = command.calls(context)
        if self.tracked_rooms and command.spec in CLEARING:
            for call in calls:
                self.tracked_rooms.mark_clearing(call)
        return calls

    def detects_data_loss(self, call: Call, reply: list[Any]) -> bool:
        """Whether a reply comes from a shard that has lost what was there: then the call is to be repeated."""
        spec, tag = call.spec, call.tag
        if not spec.epoch:
            return False
        epoch, known = reply[1 if spec.feed else 0], self._epochs.get(tag)
        if epoch == known:
            return False
        if known is None:
            if tag in self._unverified and self.lease is not None and spec.repeatable:
                return True  # sent again on its way, and maybe to a server that does not know the lease
            if epoch is not None:
                self._epochs[tag] = epoch
                self._unverified.add(tag)  # to learn which server it is
            return False
        self._unverified.add(tag)
        return spec.repeatable

    def process_reply(self, call: Call, epochs: ObserverEpochs, reply: list[Any]) -> list[Any]:
        reply = super().process_reply(call, epochs, reply)
        if self.tracked_rooms or call.spec.epoch:
            self.tracked_rooms.observe(call, reply, time.monotonic())
        return reply

    def prepare(self, tag: str, attempts: Attempts) -> Flow[None]:
        """What must be done before a call may go to a shard."""
        if not self.settings_verified:
            yield from self.verify_settings(attempts)
        if self.needs_check(tag):
            yield from self.verify_shard(tag, attempts)
        while tag in self._unverified:  # lost, or lost again meanwhile
            if not self.settings_verified:
                yield from self.verify_settings(attempts)
            yield from self.verify_shard(tag, attempts)

    def verify_shard(self, tag: str, attempts: Attempts) -> Flow[None]:
        """Look at a shard; if it is not the one that it was, or may have gone back in time, say what is held.

        Whoever does this may be stopped at any effect, by a deadline or an interrupt; the next call goes on with it.
        """
        losses = self.losses
        if tag in self._unverified:
            epoch = yield from attempts.send_command(tag, ["HGET", keys.epoch(tag), "epoch"])
            server = yield from self._run_id_of(tag, attempts)
            if epoch != self._epochs.get(tag, epoch):
                self._settings_valid_until = (
                    0.0  # they may be gone as well: nothing is said where others have been written
                )
                self._mark_lost(tag)
            elif server != self._run_ids.get(tag, server):
                self._mark_lost(tag)
            self._run_ids[tag] = server
            if epoch is not None:
                self._epochs[tag] = epoch
            else:
                self._epochs.pop(tag, None)  # whoever writes first makes it
        if self.settings_verified and (yield from self._replay(tag, attempts)) and self.losses == losses:
            self._unverified.discard(tag)

    def _mark_lost(self, tag: str) -> None:
        self._unrenewed.add(tag)
        self.tracked_rooms.mark_lost(tag, time.monotonic())

    def _replay(self, tag: str, attempts: Attempts) -> Flow[bool]:
        """Say what is still to be said; whether the shard has stayed the same meanwhile."""
        context = self._context
        assert context is not None  # noqa: S101 - nothing is held before a first call
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
                return False  # it may have come to a server that was lost again and knows no lease: see prepare
            self.process_reply(call, epochs, reply)
        return True

    def _has_same_epoch(self, tag: str, epoch: bytes) -> bool:
        """Whether a shard has the epoch that it had when this began; if not, all begins anew."""
        if self._epochs.setdefault(tag, epoch) == epoch:
            return True
        self._unverified.add(tag)
        return False

    def _run_id_of(self, tag: str, attempts: Attempts) -> Flow[bytes]:
        try:
            info = yield from attempts.send_command(tag, ["INFO", "server"])
        except CallFailed as failure:
            if failure.until != float("inf"):
                raise  # only time was short
            return b""  # fakeredis has no INFO, and a careful operator may deny it
        found = _RUN_ID.search(info)
        return found[1] if found else b""
