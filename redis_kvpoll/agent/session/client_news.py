"""What a session tells its client: of its progress in one message, since each wakes a thread there."""

from __future__ import annotations

from collections.abc import Callable

from redis_kvpoll.agent import messages
from redis_kvpoll.agent.session_state import SessionState
from redis_kvpoll.engine.leases.lease_state import LeaseState
from redis_kvpoll.model import Entry
from redis_kvpoll.protocol.failures import of_entry


class ClientNews:
    """Collects news for a client, and tells it at once what cannot wait. ``send`` sends it a message."""

    def __init__(self, send: Callable[[int, bytes], object]) -> None:
        self._send = send
        self._opened: list[tuple[int, int, int]] = []
        self._ended: list[tuple[int, int, int]] = []
        self._state: SessionState | None = None
        self._lease: LeaseState | None = None

    def opened(self, room: int, number: int, generation: int) -> None:
        """The table has a life now."""
        self._opened.append((room, number, generation))

    def ended(self, room: int, number: int) -> None:
        """The table has all of a life, its end too, or never will."""
        self._ended.append((room, number, 0))

    def send(self, state: SessionState, lease: LeaseState | None) -> None:
        """Tell what is new."""
        parts = []
        if self._opened:
            opened, self._opened = self._opened, []
            parts.append((messages.OPENED, messages.encode_lives(opened)))
        if self._ended:
            ended, self._ended = self._ended, []
            parts.append((messages.ENDED, messages.encode_lives(ended)))
        if lease is not None and lease != self._lease:
            self._lease = lease
            parts.append((messages.LEASE, messages.encode_words(*lease)))
        if state != self._state:
            self._state = state
            parts.append((messages.STATE, messages.encode_words(*state)))
        if len(parts) > 1:
            self._send(messages.NEWS, messages.encode_news(parts))
        elif parts:
            self._send(*parts[0])

    # At once

    def fail(self, room: int, number: int, reason: str, by_hand: bool) -> None:
        """A life has failed in the table."""
        self._send(messages.FAILED, messages.encode_words(room, number, reason, by_hand))

    def fail_as_found(self, room: int, number: int, entry: Entry) -> None:
        """The table had a life as Failed."""
        if (failure := of_entry(entry)) is not None:
            self.fail(room, number, failure.reason or "", failure.is_by_operator)

    def deliver_reason(self, room: int, reason: str) -> None:
        """Give it another rank's reason, for which a thread waits."""
        self._send(messages.REASON, messages.encode_words(room, reason))

    def log(self, level: int, text: str) -> None:
        """Have it log a line."""
        self._send(messages.LOG, messages.encode_words(level, f"redis_kvpoll: {text}"))
