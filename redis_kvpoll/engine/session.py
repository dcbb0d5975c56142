"""A store's session: its identity, the settings of its namespace, and the observers of its replies.

A call is sent only if the settings were verified since the server changed, and within RENEW_SECONDS.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

from redis_kvpoll import validation
from redis_kvpoll.errors import ReadOnlyStoreError, StoreClosedError
from redis_kvpoll.protocol.script_call import Call, CallContext, Identity
from redis_kvpoll.protocol.settings import RENEW_SECONDS, RESTORE_SECONDS, ExpectedSettings


class WriteObserver(Protocol):
    """A local copy of the table that applies this store's own writes. A mirror is one."""

    def sync_token(self) -> Any:
        """Return a value that changes whenever the copy starts a resync. Only the observer knows what it means."""

    def observe_write(self, token: Any, call: Call, feed_id: bytes, reply: Sequence[Any]) -> None:
        """Apply a reply, as of ``feed_id``, before the caller gets it. ``token`` is from when the call was sent."""

    def server_changed(self) -> None:
        """The store has found another server, or a server without its data."""

    @property
    def is_interrupted(self) -> bool:
        """Whether the caller interrupts a change that its own thread makes to the copy."""
        return False


SyncTokens: TypeAlias = Sequence[tuple[WriteObserver, Any]]


class Session:
    """The state of one store that is not a shard's.

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
        self.expected_settings = expected_settings
        """The settings that this store requires, including those that it has adopted."""
        self.identity = Identity(
            str(round(ttl * 1000)), str(round(terminal_ttl * 1000)), *ranks, nonce=secrets.token_hex(4)
        )
        self.read_only = expected_settings.read_only
        self.context: CallContext | None = None
        """None before the first call. What it says of the namespace never changes."""
        self.valid_until = self._renew_at = 0.0
        self.server_changes = 0
        """How often another server was found, or one without its data."""
        self.slot_map_version = 0
        """Incremented when a cluster's slot map may have changed."""
        self.delays: dict[str, tuple[float, str]] = {}
        """By shard: when a call to it was delayed last, and what calls that wait behind it are told of that."""
        self.closed = False
        self.server = ""
        """The server, for messages: a URL without its password. The store sets it."""
        self.observers: dict[WriteObserver, None] = {}

    @classmethod
    def checked(
        cls, namespace: Any, times: tuple[Any, Any, Any], settings: tuple[Any, ...], ranks: tuple[Any, Any]
    ) -> Session:
        """Return a session from unchecked arguments, or raise InvalidInputError.

        ``times`` are ttl, terminal_ttl and deadline; ``settings`` policy, shards, mode, feed_length and read_only;
        ``ranks`` rank and world_size.
        """
        expected = ExpectedSettings.checked(namespace, *settings)
        ttl, terminal_ttl, deadline = times
        return cls(
            expected,
            ttl=validation.seconds(ttl, "ttl"),
            terminal_ttl=validation.seconds(terminal_ttl, "terminal_ttl"),
            deadline=validation.seconds(deadline, "deadline"),
            ranks=validation.ranks(*ranks),
        )

    @property
    def namespace(self) -> str:
        return self.expected_settings.namespace

    def check_open(self, operation: str) -> None:
        """Raise StoreClosedError if the store was closed."""
        if self.closed:
            raise StoreClosedError(f"{operation}: this store was closed; make another")

    def check_writable(self, operation: str) -> None:
        """Raise ReadOnlyStoreError if this store only reads."""
        if self.read_only:
            raise ReadOnlyStoreError(
                f"{operation}: this store was made with read_only=True; make another without it to write"
            )

    # Settings and identity

    @property
    def is_verified(self) -> bool:
        """Whether the settings were verified within RENEW_SECONDS, and the server has not changed since."""
        return time.monotonic() < self.valid_until

    @property
    def verified_context(self) -> CallContext | None:
        """The context; None before the first call, and when the settings must be verified again."""
        return self.context if self.is_verified else None

    def must_renew_settings(self, now: float) -> bool:
        """Whether a heartbeat is to renew the settings. Counts as done, so that one of several leases does it."""
        is_due = now >= self._renew_at
        if is_due:
            self._renew_at = now + RESTORE_SECONDS
        return is_due

    def adopt_settings(self, reply: list[Any], server_changes: int) -> CallContext:
        """Adopt the settings in a reply, or raise NamespaceMismatchError. Returns the new context.

        ``server_changes`` is from before they were asked for: if there is another since, they must be verified again.
        """
        if self.read_only and not any(reply):  # nobody has created the namespace yet, so the next call asks again
            return self.expected_settings.context(self.expected_settings.of_absent(), self.identity)
        settings = self.expected_settings.read(reply)
        self.expected_settings = self.expected_settings.adopt(settings)
        self.context = self.expected_settings.context(settings, self.identity)
        now = time.monotonic()
        if server_changes == self.server_changes:
            self.valid_until, self._renew_at = now + RENEW_SECONDS, now + RESTORE_SECONDS
        return self.context

    def set_owner(self, owner: str, incarnation: str) -> None:
        """Set the lease that owns the rooms which this store creates from now on; none if both are empty."""
        self.identity = replace(self.identity, owner=owner, incarnation=incarnation)
        if self.context is not None:
            self.context = replace(self.context, owner=owner, incarnation=incarnation)

    def server_changed(self) -> None:
        """Note another server, or one without its data: the next call verifies the settings first."""
        self.server_changes += 1
        self.valid_until = 0.0
        for observer in tuple(self.observers):
            observer.server_changed()

    # Observers

    def add_observer(self, observer: WriteObserver) -> None:
        """Pass the replies of calls that start from now on to an observer."""
        self.observers[observer] = None

    def remove_observer(self, observer: WriteObserver) -> None:
        self.observers.pop(observer, None)

    def sync_tokens(self) -> SyncTokens:
        """Return each observer with its token, for a call that is sent now."""
        if not self.observers:
            return ()
        return [(observer, observer.sync_token()) for observer in tuple(self.observers)]

    def observers_now(self, tokens: SyncTokens) -> SyncTokens:
        """Return the observers that there are by now: those that came after ``tokens`` with an empty one."""
        tokens_then = dict(tokens)
        return [(observer, tokens_then.get(observer, {})) for observer in tuple(self.observers)]
