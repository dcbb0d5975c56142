"""Bringing back what a server has lost: who notices that, and what is said then, in which order. No I/O.

A shard has lost data when its epoch is another one; a server that is another one (a replica that was promoted, the same
program started again with what was on its disk) may have lost the last moments, with the epoch in place. In both cases
the store says again what it holds, before anything else goes to that shard: on the flight that noticed, so that what is
cleared later is cleared after it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any, Protocol

from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.engine.retry import Trip, Undelivered
from redis_kvpoll.engine.session import Marks, Standing
from redis_kvpoll.engine.tracked_rooms import CLEARING, Held
from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.script_call import Call, Command, Layout
from redis_kvpoll.protocol.script_specs import OPEN, UPDATE, WRITE

_RUN_ID = re.compile(rb"^run_id:(\w+)", re.MULTILINE)


class Renewable(Protocol):
    """A lease, as far as restating needs to know of it: who owns rooms must live before they are brought back."""

    lost: bool
    """Known to be lost: then it is not to be taken again, though the server may not know any more that it was."""

    def renewal(self, tag: str) -> Call:
        """What keeps the lease alive in a shard, or takes it again there."""

    def heard(self, tag: str, reply: list[Any]) -> object:
        """The reply to that."""

    def check(self, operation: str) -> None:
        """Raise LeaseLostError if it is known to be lost."""


UNDER_LEASE = (UPDATE, WRITE, OPEN)
"""What a store whose lease is lost may not do, whatever the shard would say."""


class Restating(Standing):
    """A Standing that also knows what its store holds, and which of the shards are still those that it knew."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        ttl_ms, terminal_ttl_ms = int(self._identity.ttl_ms), int(self._identity.terminal_ttl_ms)
        self.held = Held(ttl_ms / 1000, terminal_ttl_ms / 1000, bool(self._identity.rank))
        self.lease: Renewable | None = None
        self._epochs: dict[str, bytes] = {}
        self._servers: dict[str, bytes] = {}
        """The run id of the server that each shard was last found on; empty where it does not say."""
        self._doubtful: set[str] = set()
        """Shards to look at before the next call: data that is held there may be lost."""
        self._unrenewed: set[str] = set()
        """Shards that were lost, where the lease, if there is one, is to be taken again first."""

    def interrupted(self) -> None:
        super().interrupted()
        self._doubtful.update(self.held.tags)
        if self.lease is not None and self._layout is not None:
            self._doubtful.update(keys.tags(self._layout.namespace, self._layout.shards))

    def moved(self, tag: str) -> bool:
        """Another server has a shard now, maybe a replica of it that lagged. Whether that is to be looked into."""
        if not self.held.claims(tag) and self.lease is None:
            return False
        self.losses += 1
        self._doubtful.add(tag)
        return True

    def check_free(self) -> None:
        """Raise InvalidInputError if this store holds a lease."""
        if self.lease is not None:
            raise InvalidInputError(f"lease: this store has {self.lease} already; one store holds one lease at a time")

    def hold(self, lease: Renewable, owner: str, incarnation: str) -> None:
        """From now on this store works under a lease."""
        self.check_free()
        self.lease = lease
        self.own(owner, incarnation)

    def release(self, lease: Renewable) -> None:
        """From now on it does not, if it did under this one."""
        if self.lease is lease:
            self.lease = None
            self.own("", "")

    def suspect(self, tags: Iterable[str]) -> None:
        """Look at these shards before the next call: data that is held there may be lost."""
        self._doubtful.update(tags)

    def doubts(self, tag: str) -> bool:
        """Whether a shard must be looked at before a call may go there."""
        return tag in self._doubtful or (tag in self.held.waiting and self.held.waiting[tag] <= time.monotonic())

    def form(self, command: Command[Any, Any], layout: Layout) -> list[Call]:
        """A command's calls. What they clear is from now on not brought back."""
        if self.lease is not None and command.shape in UNDER_LEASE:
            self.lease.check(command.operation)
        calls = command.calls(layout)
        if self.held and command.shape in CLEARING:
            for call in calls:
                self.held.end(call)
        return calls

    def has_lost(self, call: Call, reply: list[Any]) -> bool:
        """Whether a reply comes from a shard that has lost what was there: then the call is to be repeated."""
        shape, tag = call.shape, call.tag
        if not shape.epoch:
            return False
        epoch, known = reply[1 if shape.feed else 0], self._epochs.get(tag)
        if epoch == known:
            return False
        if known is None:
            if tag in self._doubtful and self.lease is not None and shape.repeatable:
                return True  # sent again on its way, and maybe to a server that does not know the lease
            if epoch is not None:
                self._epochs[tag] = epoch
                self._doubtful.add(tag)  # to learn which server it is
            return False
        self._doubtful.add(tag)
        return shape.repeatable

    def read(self, call: Call, marks: Marks, reply: list[Any]) -> list[Any]:
        reply = super().read(call, marks, reply)
        if self.held or call.shape.epoch:
            self.held.hear(call, reply, time.monotonic())
        return reply

    def prepare(self, tag: str, trip: Trip) -> Flow[None]:
        """What must be done before a call may go to a shard."""
        if not self.settled:
            yield from self.settle(trip)
        if self.doubts(tag):
            yield from self.make_sure(tag, trip)
        while tag in self._doubtful:  # lost, or lost again meanwhile
            if not self.settled:
                yield from self.settle(trip)
            yield from self.make_sure(tag, trip)

    def make_sure(self, tag: str, trip: Trip) -> Flow[None]:
        """Look at a shard; if it is not the one that it was, or may have gone back in time, say what is held.

        Whoever does this may be stopped at any step, by a deadline or an interrupt; the next call goes on with it.
        """
        losses = self.losses
        if tag in self._doubtful:
            epoch = yield from trip.ask(tag, ["HGET", keys.epoch(tag), "epoch"])
            server = yield from self._server(tag, trip)
            if epoch != self._epochs.get(tag, epoch):
                self._settled_until = 0.0  # they may be gone as well: nothing is said where others have been written
                self._lose(tag)
            elif server != self._servers.get(tag, server):
                self._lose(tag)
            self._servers[tag] = server
            if epoch is not None:
                self._epochs[tag] = epoch
            else:
                self._epochs.pop(tag, None)  # whoever writes first makes it
        if self.settled and (yield from self._restate(tag, trip)) and self.losses == losses:
            self._doubtful.discard(tag)

    def _lose(self, tag: str) -> None:
        self._unrenewed.add(tag)
        self.held.lose(tag, time.monotonic())

    def _restate(self, tag: str, trip: Trip) -> Flow[bool]:
        """Say what is still to be said; whether the shard has stayed the same meanwhile."""
        layout = self._layout
        assert layout is not None  # noqa: S101 - nothing is held before a first call
        losses = self.losses
        if self.lease is not None and not self.lease.lost and tag in self._unrenewed:
            reply = yield from trip.carry(self.lease.renewal(tag), preliminary=True)
            self.lease.heard(tag, reply)
            if self.losses != losses or not self._is_same(tag, reply[0]):
                return False
        self._unrenewed.discard(tag)
        for call in self.held.restating(tag, layout, time.monotonic()):
            marks = self.marks()
            reply = yield from trip.carry(call, preliminary=True)
            if self.losses != losses or not self._is_same(tag, reply[1]):
                return False  # it may have come to a server that was lost again and knows no lease: see prepare
            self.read(call, marks, reply)
        return True

    def _is_same(self, tag: str, epoch: bytes) -> bool:
        """Whether a shard has the epoch that it had when this began; if not, all begins anew."""
        if self._epochs.setdefault(tag, epoch) == epoch:
            return True
        self._doubtful.add(tag)
        return False

    def _server(self, tag: str, trip: Trip) -> Flow[bytes]:
        try:
            info = yield from trip.ask(tag, ["INFO", "server"])
        except Undelivered as failure:
            if failure.until != float("inf"):
                raise  # only time was short
            return b""  # fakeredis has no INFO, and a careful operator may deny it
        found = _RUN_ID.search(info)
        return found[1] if found else b""
