"""How a store stands: with its namespace, whose settings it holds to, and with those who watch what it writes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, TypedDict

from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.engine.retry import Trip
from redis_kvpoll.errors import StoreClosedError
from redis_kvpoll.protocol.script_call import Call, Identity, Layout
from redis_kvpoll.protocol.settings import RENEW_SECONDS, Agreement
from redis_kvpoll.validation import Mode, Policy

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
    rank: int | None
    world_size: int | None


class Watcher(Protocol):
    """A local copy, as far as writers need to know of it."""

    def departing(self) -> Any:
        """A mark that is another once the copy has begun anew."""

    def wrote(self, mark: Any, call: Call, feed_id: bytes, reply: Sequence[Any]) -> None:
        """What this process wrote, before its caller knows; ``reply`` is true at ``feed_id``."""

    def suspect(self) -> None:
        """A connection was lost, and the server may be another."""


Marks: TypeAlias = Sequence[tuple[Watcher, Any]]


class Standing:
    """What one store knows between its calls. No I/O.

    ``ttl``, ``terminal_ttl`` and ``deadline`` are seconds and have been checked.
    """

    def __init__(
        self,
        agreement: Agreement,
        ttl: float,
        terminal_ttl: float,
        deadline: float,
        ranks: tuple[str, str] = ("", ""),
    ) -> None:
        self.deadline = deadline
        self._agreement = agreement
        self._identity = Identity(
            str(round(ttl * 1000)), str(round(terminal_ttl * 1000)), *ranks, nonce=secrets.token_hex(4)
        )
        self._layout: Layout | None = None
        self._settled_until = 0.0
        self.losses = 0
        """How many connections have been lost or given up."""
        self.map_version = 0
        """Grows when a cluster's map of slots may be another."""
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

    @property
    def namespace(self) -> str:
        return self._agreement.namespace

    def check_open(self, operation: str) -> None:
        """Raise StoreClosedError if the store was closed."""
        if self.closed:
            raise StoreClosedError(f"{operation}: this store was closed; make another")

    @property
    def settled(self) -> bool:
        """Whether the settings were looked at, over the server that is there now, in the last hour."""
        return time.monotonic() < self._settled_until

    def unsettle(self) -> None:
        """A connection was lost, and the server may be another: check the settings before the next call."""
        self.interrupted()
        for watcher in self.watchers:
            watcher.suspect()

    def interrupted(self) -> None:
        """A connection was given up in the midst of a call, by us: the next one is new, and is checked."""
        self.losses += 1
        self.map_version += 1
        self._settled_until = 0.0

    def settle(self, trip: Trip) -> Flow[Layout]:
        """Check the settings of the namespace, and renew them."""
        return self.adopt((yield from trip.carry(self._agreement.call(), preliminary=True)), trip)

    def adopt(self, reply: list[Any], trip: Trip) -> Layout:
        """Hold to the settings that a trip brought, unless they say otherwise than ours."""
        settings = self._agreement.read(reply)
        self._agreement = self._agreement.adopt(settings)
        self._layout = self._agreement.layout(settings, self._identity)
        if trip.losses == self.losses:
            self._settled_until = time.monotonic() + RENEW_SECONDS
        return self._layout

    def own(self, owner: str, incarnation: str) -> None:
        """From now on, what this store creates is owned by a lease; or by nobody, when both are empty."""
        self._identity = replace(self._identity, owner=owner, incarnation=incarnation)
        if self._layout is not None:
            self._layout = replace(self._layout, owner=owner, incarnation=incarnation, words={})

    @property
    def _agreed(self) -> Layout | None:
        """What was agreed on; None before the first call, and when it is time to look again."""
        return self._layout if self.settled else None

    def marks(self) -> Marks:
        """What watchers must be told with what is now sent."""
        return [(watcher, watcher.departing()) for watcher in self.watchers] if self.watchers else ()

    def read(self, call: Call, marks: Marks, reply: list[Any]) -> list[Any]:
        """The words of the rooms in a reply; watchers get to know what was written."""
        shape = call.shape
        feed_id = reply.pop(0) if shape.feed else None
        if shape.epoch:
            reply.pop(0)
        if marks and feed_id is not None and shape.leaves:
            for watcher, mark in marks:
                watcher.wrote(mark, call, feed_id, reply)
        return reply
