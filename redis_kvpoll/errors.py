"""Every exception of this library.

KVPollError
├── InvalidInputError (ValueError)      an argument is invalid; nothing was sent
├── RoomNotFoundError (KeyError)        the room is absent
├── RoomBusyError                       another request has the room
├── WorldSizeMismatchError              the room has another number of ranks
├── LeaseLostError                      this store's lease expired or was taken over; its rooms were failed
├── WaitTimeoutError (TimeoutError)     the room did not reach the status within the timeout of wait
├── KVTransferError                     the transfer failed; raised by failure_exception
├── CorruptEntryError                   a key of the table holds a value that no script writes
├── NamespaceMismatchError              the store and the namespace disagree on a setting
├── FeedOffError                        the namespace keeps no change feed
├── StoreClosedError                    the store was closed
├── ReadOnlyStoreError                  the call writes, and the store was made with read_only=True
├── ServerRefusedError                  the server answered with an error that a retry would not change
├── StoreUnavailableError               no answer within the deadline; safe to retry
├── OutcomeUnknownError                 sent, but without a reply; it may have been executed or not
├── EmbeddedServerError                 embedded:// found no server program, or the server did not start
└── ReplayError                         kvpoll replay did not complete

EvictionWarning (UserWarning)           the server may evict live rooms under memory pressure
"""

from __future__ import annotations

from typing import Any

from redis_kvpoll.model import KVPoll


class KVPollError(Exception):
    """The base class of this library's exceptions."""


class InvalidInputError(KVPollError, ValueError):
    """An argument is invalid. Nothing was sent to Redis."""


class _RoomError(KVPollError):
    """An error about one room. ``args`` equal the constructor's arguments, so it can be pickled."""

    def __init__(self, room: int, *details: Any) -> None:
        super().__init__(room, *details)
        self.room = room


class RoomNotFoundError(_RoomError, KeyError):
    """The room is not in the table: never opened, cleared, expired or evicted."""

    def __init__(self, room: int, operation: str = "check_status") -> None:
        super().__init__(room, operation)
        self.operation = operation

    # KeyError would print the repr of its argument, with quotes.
    def __str__(self) -> str:
        return f"{self.operation}: room {self.room} is not in the table (never opened, cleared, expired or evicted)"


class RoomBusyError(_RoomError):
    """The room cannot be opened: another request has it, or this rank has cleared it and other ranks have not.

    ``age`` is the time since it was opened, in seconds; ``owner`` and ``request`` are None where there is none.
    """

    def __init__(self, room: int, status: KVPoll | None, age: float, owner: str | None, request: str | None) -> None:
        super().__init__(room, status, age, owner, request)
        self.status = status
        self.age = age
        self.owner = owner
        self.request = request

    def __str__(self) -> str:
        by = f"request {printable(self.request)}" if self.request else "a plain update"
        by += f" of owner {printable(self.owner)}" if self.owner else ""
        at = self.status.name if self.status is not None else "an unknown status"
        return (
            f"open: room {self.room} is at {at}, opened {self.age:.1f} s ago by {by}; "
            "it is free once all its ranks have cleared it, and for another request once it has failed "
            f"(or have a store without a rank call clear({self.room}))"
        )


class WorldSizeMismatchError(_RoomError):
    """The room has another world size than this store. Nothing was written.

    ``theirs`` is the room's and ``ours`` the store's, as decimal numbers; "0" or "" without ranks.
    """

    def __init__(self, room: int, operation: str, theirs: str, ours: str = "") -> None:
        super().__init__(room, operation, theirs, ours)
        self.operation = operation
        self.theirs = theirs
        self.ours = ours

    def __str__(self) -> str:
        return (
            f"{self.operation}: room {self.room} has {_ranks(self.theirs)}, but this store has {_ranks(self.ours)}; "
            "give every store that shares a room the same world_size=, and a rank= of its own"
        )


def _ranks(world_size: str) -> str:
    return "no ranks" if world_size in ("", "0") else f"world_size={printable(world_size)}"


class LeaseLostError(KVPollError):
    """This store's lease expired or was taken over; its live rooms were failed or will be."""

    def __init__(self, operation: str, owner: str) -> None:
        super().__init__(operation, owner)
        self.operation = operation
        self.owner = owner

    def __str__(self) -> str:
        return (
            f"{self.operation}: owner {printable(self.owner)!r} lost its lease: no heartbeat within its ttl, "
            "another process took its name, or this process released it meanwhile; its in-flight rooms were failed; "
            "leave the lease's with block, then take a new lease"
        )


class WaitTimeoutError(_RoomError, TimeoutError):
    """The room did not reach a status within the timeout; ``status`` is the last one seen, None if there was none."""

    def __init__(self, room: int, status: KVPoll | None, seconds: float) -> None:
        super().__init__(room, status, seconds)
        # OSError, the base of TimeoutError, keeps only two of three arguments.
        self.args = (room, status, seconds)
        self.status = status
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args

    def __str__(self) -> str:
        last = "never seen" if self.status is None else f"last seen at {self.status.name}"
        return f"wait: room {self.room} did not reach the status within {self.seconds:g} s ({last})"


class KVTransferError(_RoomError):
    """The KV transfer of a room failed for ``reason``. The name is SGLang's."""

    def __init__(self, room: int, reason: str) -> None:
        super().__init__(room, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"KV transfer of room {self.room} failed: {printable(self.reason)}"


class CorruptEntryError(_RoomError):
    """The room's key holds a value that no script of this library writes."""

    def __init__(self, room: int, operation: str, found: str) -> None:
        super().__init__(room, operation, found)
        self.operation = operation
        self.found = found

    def __str__(self) -> str:
        return (
            f"{self.operation}: room {self.room} holds {printable(self.found)}, which this library never writes; "
            f"check its key with redis-cli, or call clear({self.room}) to start over"
        )


class NamespaceMismatchError(KVPollError):
    """The namespace has another setting than this store, and sharing it would corrupt the table.

    ``ours`` is None when the store adopts the setting, but this version does not know the value.
    """

    def __init__(self, namespace: str, setting: str, ours: str | None, theirs: str) -> None:
        super().__init__(namespace, setting, ours, theirs)
        self.namespace = namespace
        self.setting = setting
        self.ours = ours
        self.theirs = theirs

    def __str__(self) -> str:
        there = f"namespace {self.namespace!r} has {self.setting}={printable(self.theirs)}"
        if self.ours is None:
            return f"{there}, which this version does not know; use the version that wrote it, or another namespace"
        return (
            f"{there}, but this store was made with {self.setting}={self.ours}; "
            f"pass {self.setting}=None to adopt it, or use another namespace"
        )


class FeedOffError(KVPollError):
    """The operation reads the change feed, and the namespace keeps none."""

    def __init__(self, operation: str, namespace: str) -> None:
        super().__init__(operation, namespace)
        self.operation = operation
        self.namespace = namespace

    def __str__(self) -> str:
        return (
            f"{self.operation}: namespace {self.namespace!r} was opened with feed_length=0 and keeps no changes; "
            "use another namespace, or stop every process that uses this one, delete its settings with redis-cli, "
            "and open it without feed_length=0"
        )


class StoreClosedError(KVPollError):
    """The store was closed before this call."""


class ReadOnlyStoreError(KVPollError):
    """The call writes, and the store was made with read_only=True. Nothing was sent."""


class ServerRefusedError(KVPollError):
    """The server answered with an error that a retry would not change."""


class StoreUnavailableError(KVPollError):
    """The server gave no answer within the store's deadline. The call is safe to retry."""


class OutcomeUnknownError(KVPollError):
    """A destructive call was sent, and its caller has no reply, so it may have been executed; or it was for some rooms.

    Not a StoreUnavailableError: the caller has to read the room before it repeats the call.
    """


class EmbeddedServerError(KVPollError):
    """No server for embedded:// was found, or it did not start."""


class ReplayError(KVPollError):
    """A replay did not complete."""


class EvictionWarning(UserWarning):
    """The server's maxmemory-policy may evict live rooms."""


def printable(text: str) -> str:
    """Return ``text`` with terminal control characters (escapes, newlines, bidi marks) spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
