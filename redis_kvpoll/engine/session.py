"""A store's session: its identity, the settings of its namespace, and the observers of its replies.

A call is sent only if the settings were verified since the last lost connection, and within RENEW_SECONDS.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, TypedDict

from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.engine.retry import Attempts
from redis_kvpoll.errors import ReadOnlyStoreError, StoreClosedError
from redis_kvpoll.protocol.script_call import Call, CallContext, Identity
from redis_kvpoll.protocol.settings import RENEW_SECONDS, ExpectedSettings
from redis_kvpoll.validation import Mode, Policy

# Seconds; the docstring of StatusStore has the reasons.
DEFAULT_TTL = 900.0
DEFAULT_TERMINAL_TTL = 300.0
DEFAULT_DEADLINE = 5.0


class StoreOptions(TypedDict, total=False):
    """The options of StatusStore and AsyncStatusStore, as ``from_url`` takes them."""

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
    read_only: bool


class WriteObserver(Protocol):
    """A local copy of the table that applies this store's own writes. A mirror is one."""

    def sync_epochs(self) -> Any:
        """Return a mark that changes whenever the copy starts a resync."""

    def observe_write(self, mark: Any, call: Call, feed_id: bytes, reply: Sequence[Any]) -> None:
        """Apply a reply, as of ``feed_id``, before the caller gets it. ``mark`` was taken when the call was sent."""

    def connection_lost(self) -> None:
        """A connection was lost, and the server may be another one."""


ObserverEpochs: TypeAlias = Sequence[tuple[WriteObserver, Any]]


class Session:
    """The state of one store between its calls.

    ``ttl``, ``terminal_ttl`` and ``deadline`` are checked, in seconds.
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
        """The number of connections that were lost or abandoned."""
        self.slot_map_version = 0
        """Incremented when a cluster's slot map may have changed."""
        self._checked_eviction = False
        self.closed = False
        self.server = ""
        """The server, for messages: a URL without its password. The store sets it."""
        self.observers: tuple[WriteObserver, ...] = ()

    @property
    def expected_settings(self) -> ExpectedSettings:
        """The settings that this store requires, including those that it has adopted."""
        return self._expected

    def add_observer(self, observer: WriteObserver) -> None:
        """Pass the replies of calls that start from now on to an observer."""
        self.observers = (*self.observers, observer)

    def remove_observer(self, observer: WriteObserver) -> None:
        self.observers = tuple(other for other in self.observers if other is not observer)

    @property
    def namespace(self) -> str:
        return self._expected.namespace

    @property
    def read_only(self) -> bool:
        return self._expected.read_only

    def check_open(self, operation: str) -> None:
        """Raise StoreClosedError if the store was closed."""
        if self.closed:
            raise StoreClosedError(f"{operation}: this store was closed; make another")

    @property
    def settings_verified(self) -> bool:
        """Whether the settings were verified on the current connection within RENEW_SECONDS."""
        return time.monotonic() < self._settings_valid_until

    def server_may_have_changed(self) -> None:
        """Note that a connection was lost and the server may be another one; notify the observers."""
        self.connection_lost()
        for observer in self.observers:
            observer.connection_lost()

    def connection_lost(self) -> None:
        """Note that a connection was lost or abandoned: the next call verifies the settings first."""
        self.losses += 1
        self.slot_map_version += 1
        self._settings_valid_until = 0.0

    def verify_settings(self, attempts: Attempts) -> Flow[CallContext]:
        """Verify the namespace's settings and renew their TTL."""
        return self.adopt_settings((yield from self.ask_settings(attempts)), attempts)

    def ask_settings(self, attempts: Attempts, first_error: Exception | None = None) -> Flow[Any]:
        """Return the namespace's settings, which a store that writes creates or renews."""
        if self.read_only:
            return (yield from attempts.send_command(self.namespace, self._expected.reading()))
        return (yield from attempts.send_script(self._expected.call(), auxiliary=True, first_error=first_error))

    def check_writable(self, operation: str) -> None:
        """Raise ReadOnlyStoreError if this store only reads."""
        if self.read_only:
            raise ReadOnlyStoreError(
                f"{operation}: this store was made with read_only=True; make another without it to write"
            )

    def adopt_settings(self, reply: list[Any], attempts: Attempts) -> CallContext:
        """Adopt the settings in a reply, or raise NamespaceMismatchError. Returns the new context."""
        if self.read_only and not any(reply):  # nobody has created the namespace yet, so the next call asks again
            return self._expected.context(self._expected.of_absent(), self._identity)
        settings = self._expected.read(reply)
        self._expected = self._expected.adopt(settings)
        self._context = self._expected.context(settings, self._identity)
        if attempts.losses == self.losses:
            self._settings_valid_until = time.monotonic() + RENEW_SECONDS
        return self._context

    def set_owner(self, owner: str, incarnation: str) -> None:
        """Set the lease that owns the rooms which this store creates from now on; none if both are empty."""
        self._identity = replace(self._identity, owner=owner, incarnation=incarnation)
        if self._context is not None:
            self._context = replace(self._context, owner=owner, incarnation=incarnation, words={})

    @property
    def _verified_context(self) -> CallContext | None:
        """The context; None before the first call, and when the settings must be verified again."""
        return self._context if self.settings_verified else None

    def observer_epochs(self) -> ObserverEpochs:
        """Return each observer with its mark, for a call that is sent now."""
        return [(observer, observer.sync_epochs()) for observer in self.observers] if self.observers else ()

    def process_reply(self, call: Call, epochs: ObserverEpochs, reply: list[Any]) -> list[Any]:
        """Return the part of a reply that belongs to its rooms, after passing it to the observers."""
        spec = call.spec
        feed_id = reply.pop(0) if spec.feed else None
        if spec.epoch:
            reply.pop(0)
        if epochs and feed_id is not None and spec.statuses_after:
            for observer, mark in epochs:
                observer.observe_write(mark, call, feed_id, reply)
        return reply
