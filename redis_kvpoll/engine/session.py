"""How a store stands: with its namespace, whose settings it holds to, and with those who watch what it writes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, TypedDict

from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.engine.retry import Attempts
from redis_kvpoll.errors import StoreClosedError
from redis_kvpoll.protocol.script_call import Call, CallContext, Identity
from redis_kvpoll.protocol.settings import RENEW_SECONDS, ExpectedSettings
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
    feed_length: int | None
    rank: int | None
    world_size: int | None


class WriteObserver(Protocol):
    """A local copy, as far as writers need to know of it."""

    def sync_epochs(self) -> Any:
        """A mark that is another once the copy has begun anew."""

    def observe_write(self, mark: Any, call: Call, feed_id: bytes, reply: Sequence[Any]) -> None:
        """What this process wrote, before its caller knows; ``reply`` is true at ``feed_id``."""

    def connection_lost(self) -> None:
        """A connection was lost, and the server may be another."""


ObserverEpochs: TypeAlias = Sequence[tuple[WriteObserver, Any]]


class Session:
    """What one store knows between its calls. No I/O.

    ``ttl``, ``terminal_ttl`` and ``deadline`` are seconds and have been checked.
    """

    def __init__(
        self,
        expected_settings: ExpectedSettings,
        ttl: float,
        terminal_ttl: float,
        deadline: float,
        ranks: tuple[str, str] = ("", ""),
    ) -> None:
        self.deadline = deadline
        self._expected = expected_settings
        self._identity = Identity(
            str(round(ttl * 1000)), str(round(terminal_ttl * 1000)), *ranks, nonce=secrets.token_hex(4)
        )
        self._context: CallContext | None = None
        self._settings_valid_until = 0.0
        self.losses = 0
        """How many connections have been lost or given up."""
        self.slot_map_version = 0
        """Grows when a cluster's map of slots may be another."""
        self._checked_eviction = False
        self.closed = False
        self.observers: tuple[WriteObserver, ...] = ()

    @property
    def expected_settings(self) -> ExpectedSettings:
        """What this store holds to; what it adopt_handle, too."""
        return self._expected

    def add_observer(self, observer: WriteObserver) -> None:
        """Let a observer hear of the calls that begin from now on."""
        self.observers = (*self.observers, observer)

    def remove_observer(self, observer: WriteObserver) -> None:
        self.observers = tuple(other for other in self.observers if other is not observer)

    @property
    def namespace(self) -> str:
        return self._expected.namespace

    def check_open(self, operation: str) -> None:
        """Raise StoreClosedError if the store was closed."""
        if self.closed:
            raise StoreClosedError(f"{operation}: this store was closed; make another")

    @property
    def settings_verified(self) -> bool:
        """Whether the settings were looked at, over the server that is there now, in the last hour."""
        return time.monotonic() < self._settings_valid_until

    def server_may_have_changed(self) -> None:
        """A connection was lost, and the server may be another: check the settings before the next call."""
        self.connection_lost()
        for observer in self.observers:
            observer.connection_lost()

    def connection_lost(self) -> None:
        """A connection was given up in the midst of a call, by us: the next one is new, and is checked."""
        self.losses += 1
        self.slot_map_version += 1
        self._settings_valid_until = 0.0

    def verify_settings(self, attempts: Attempts) -> Flow[CallContext]:
        """Check the settings of the namespace, and renew them."""
        return self.adopt_settings((yield from attempts.send_script(self._expected.call(), auxiliary=True)), attempts)

    def adopt_settings(self, reply: list[Any], attempts: Attempts) -> CallContext:
        """Hold to the settings that a attempts brought, unless they say otherwise than ours."""
        settings = self._expected.read(reply)
        self._expected = self._expected.adopt(settings)
        self._context = self._expected.context(settings, self._identity)
        if attempts.losses == self.losses:
            self._settings_valid_until = time.monotonic() + RENEW_SECONDS
        return self._context

    def set_owner(self, owner: str, incarnation: str) -> None:
        """From now on, what this store creates is owned by a lease; or by nobody, when both are empty."""
        self._identity = replace(self._identity, owner=owner, incarnation=incarnation)
        if self._context is not None:
            self._context = replace(self._context, owner=owner, incarnation=incarnation, words={})

    @property
    def _verified_context(self) -> CallContext | None:
        """What was agreed on; None before the first call, and when it is time to look again."""
        return self._context if self.settings_verified else None

    def observer_epochs(self) -> ObserverEpochs:
        """What observers must be told with what is now sent."""
        return [(observer, observer.sync_epochs()) for observer in self.observers] if self.observers else ()

    def process_reply(self, call: Call, epochs: ObserverEpochs, reply: list[Any]) -> list[Any]:
        """The words of the rooms in a reply; observers get to know what was written."""
        spec = call.spec
        feed_id = reply.pop(0) if spec.feed else None
        if spec.epoch:
            reply.pop(0)
        if epochs and feed_id is not None and spec.statuses_after:
            for observer, mark in epochs:
                observer.observe_write(mark, call, feed_id, reply)
        return reply
