"""What a store decides: its agreement with the namespace, and which script calls carry a command out. No I/O."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from typing import Any, Protocol, TypedDict, TypeVar

from redis_kvpoll.checks import Mode, Policy
from redis_kvpoll.commands import Agreement, Call, Command, Layout, Scan, Settings
from redis_kvpoll.commands.settings import NAMES, RENEW_SECONDS
from redis_kvpoll.errors import EvictionWarning, ServerRefusedError, StoreClosedError
from redis_kvpoll.steps import Flow
from redis_kvpoll.trip import Trip

T = TypeVar("T")
V = TypeVar("V")

logger = logging.getLogger("redis_kvpoll")

# Seconds; StatusStore says why.
DEFAULT_TTL = 900.0
DEFAULT_TERMINAL_TTL = 300.0
DEFAULT_DEADLINE = 5.0


class StoreOptions(TypedDict, total=False):
    """The options of both stores, as ``from_url`` takes them."""

    namespace: str
    ttl: float
    terminal_ttl: float
    deadline: float
    policy: Policy | None
    mode: Mode | None
    shards: int | None
    feed: int | None


class Watcher(Protocol):
    """Whoever must know what this process writes, and that it lost a connection."""

    def departing(self) -> Any: ...
    def wrote(self, mark: Any, call: Call, feed_id: bytes, reply: Sequence[Any]) -> None: ...
    def suspect(self) -> None: ...


class Delivery:
    """The part that the blocking and the asyncio store have in common.

    ``ttl``, ``terminal_ttl`` and ``deadline`` are seconds and have been checked.
    """

    def __init__(self, agreement: Agreement, ttl: float, terminal_ttl: float, deadline: float) -> None:
        self.deadline = deadline
        self._agreement = agreement
        self._times = (str(round(ttl * 1000)), str(round(terminal_ttl * 1000)))
        self._layout: Layout | None = None
        self._settled_until = 0.0
        self._losses = 0
        self.map_version = 0
        self._looked_at_eviction = False
        self.closed = False
        self.watchers: tuple[Watcher, ...] = ()

    @property
    def agreement(self) -> Agreement:
        """What this store holds to; what it adopted, too."""
        return self._agreement

    def watch(self, watcher: Watcher) -> None:
        """Let a watcher hear of the calls that begin from now on."""
        self.watchers = (*self.watchers, watcher)

    def unwatch(self, watcher: Watcher) -> None:
        self.watchers = tuple(other for other in self.watchers if other is not watcher)

    def agreed(self, operation: str) -> Flow[Layout]:
        """The layout of the namespace, for an operation that is more than one command."""
        self.check_open(operation)
        trip = Trip(self, operation, [], repeatable=True)
        return self._agreed or (yield from self._agree(trip))

    @property
    def namespace(self) -> str:
        return self._agreement.namespace

    def run(self, command: Command[V, T]) -> Flow[T]:
        """Carry a command out."""
        rooms = command.rooms
        self.check_open(command.operation)
        if not rooms:
            return command.finish(rooms, [])
        trip = Trip(self, command.operation, rooms, command.repeatable)
        layout = self._agreed or (yield from self._agree(trip))
        calls = command.calls(layout)
        if len(calls) == 1:
            reply = yield from self._deliver(trip, calls[0])
            return command.finish(rooms, command.decode(command.operation, rooms, reply))
        values: list[Any] = [None] * len(rooms)
        for call in calls:
            reply = yield from self._deliver(trip, call)
            trip.done += len(call.rooms)
            some = command.decode(command.operation, call.rooms, reply)
            for position, value in zip(call.positions, some, strict=True):
                values[position] = value
        return command.finish(rooms, values)

    def _deliver(self, trip: Trip, call: Call) -> Flow[Any]:
        """Carry one call, and let the watchers hear of its reply before anybody else does."""
        watchers = self.watchers if call.shape.leaves else ()
        marks = [watcher.departing() for watcher in watchers]
        reply = yield from trip.deliver(call)
        if not call.shape.feed:
            return reply
        feed_id, *reply = reply
        if feed_id is not None:
            for watcher, mark in zip(watchers, marks, strict=True):
                watcher.wrote(mark, call, feed_id, reply)
        return reply

    def next_page(self, scan: Scan) -> Flow[list[int] | None]:
        """The next rooms of a walk; None after the last."""
        self.check_open("rooms")
        trip = Trip(self, "rooms", [], repeatable=True)
        layout = self._agreed or (yield from self._agree(trip))
        request = scan.request(layout, self.map_version)
        if request is None:
            return None
        reply = yield from trip.ask(*request)
        return scan.page(reply, self.map_version)

    def settings(self) -> Flow[Settings | None]:
        """The settings of the namespace, without writing them; None when nobody uses it."""
        self.check_open("settings")
        trip = Trip(self, "settings", [], repeatable=True)
        call = self._agreement.call()
        reply = yield from trip.ask(call.tag, ["HMGET", call.first_keys[0], *NAMES])
        return self._agreement.read(reply) if any(reply) else None

    def check_open(self, operation: str) -> None:
        """Raise StoreClosedError if the store was closed."""
        if self.closed:
            raise StoreClosedError(f"{operation}: this store was closed; make another")

    @property
    def settled(self) -> bool:
        return time.monotonic() < self._settled_until

    def unsettle(self) -> None:
        """A connection was lost, and the server may be another: check the settings before the next call."""
        self._losses += 1
        self.map_version += 1
        self._settled_until = 0.0
        for watcher in self.watchers:
            watcher.suspect()

    def settle(self, trip: Trip) -> Flow[Layout]:
        """Check the settings of the namespace, and renew them."""
        losses = self._losses
        settings = self._agreement.read((yield from trip.carry(self._agreement.call(), preliminary=True)))
        self._agreement = self._agreement.adopt(settings)
        self._layout = self._agreement.layout(settings, *self._times)
        if losses == self._losses:
            self._settled_until = time.monotonic() + RENEW_SECONDS
        return self._layout

    @property
    def _agreed(self) -> Layout | None:
        """What was agreed on; None before the first call, and when it is time to look again."""
        return self._layout if self.settled else None

    def _agree(self, trip: Trip) -> Flow[Layout]:
        layout = yield from self.settle(trip)
        if not self._looked_at_eviction:
            self._looked_at_eviction = True
            yield from self._look_at_eviction(trip)
        return layout

    def _look_at_eviction(self, trip: Trip) -> Flow[None]:
        """Warn, once a store, of a server that may drop live rooms."""
        try:
            memory = yield from trip.ask(self.namespace, ["INFO", "memory"])
        except ServerRefusedError:
            return  # fakeredis has no INFO, and a careful operator may deny it
        fields = dict(line.split(":", 1) for line in memory.decode().splitlines() if ":" in line)
        policy = fields.get("maxmemory_policy", "noeviction")
        if fields.get("maxmemory", "0") != "0" and policy != "noeviction":
            what = (
                f"the server's maxmemory-policy is {policy}: short of memory, it may drop live rooms of namespace "
                f"{self.namespace!r}; set it to noeviction"
            )
            try:
                warnings.warn(what, EvictionWarning, stacklevel=1)
            except EvictionWarning:  # warnings are errors here; but the caller's call has yet to be carried out
                logger.warning(what)
