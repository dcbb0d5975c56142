"""The effects that a flow asks its driver to perform.

A flow is a generator without I/O: it yields an effect, receives its result or exception, and returns a value. The
blocking and the asyncio driver run the same flows, so every decision about failures exists once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from redis.exceptions import AskError

from redis_kvpoll.protocol.script_call import Call, Command

T = TypeVar("T")


@dataclass(slots=True)
class Send:
    """Send the command ``words`` to the server of the shard ``tag``. The result is its reply."""

    tag: str
    words: Sequence[str]
    timeout: float | None = None
    """Seconds; None for the connection's own timeout, which never exceeds the deadline."""
    fresh: bool = False
    """Check first that an idle connection is still open. For calls that must not be repeated after a lost reply."""
    asking: tuple[str, int] | None = None
    """The node named by a cluster's ASK, for this call only."""
    then: Sequence[Sequence[str]] = ()
    """Further commands, pipelined on the same connection; the result is then the list of all replies."""
    server: bytes | None = None
    """The identity of the server that must execute it, else it fails with ServerChanged. If None, the transport sets
    it to that of the server to which it was sent."""
    packed: bytes | None = None
    """The command as it goes over the wire, if it was packed in advance; else None."""
    is_sent: bool = False
    """Whether the transport has begun to write the command: then it may have been executed."""
    on_sent: Callable[[], object] | None = None
    """Called at that moment, if set."""
    rest: Any = None
    """In asyncio, the task that reads the reply when the sending task was cancelled meanwhile."""

    def begin(self) -> None:
        """Note that the command may have been executed from now on. For the transport, before it writes."""
        self.is_sent = True
        if self.on_sent is not None:
            self.on_sent()


@dataclass(slots=True)
class Sleep:
    """Wait for a time."""

    seconds: float


@dataclass(slots=True)
class FollowRedirect:
    """Update the slot map from a cluster's redirect. The result is whether the transport supports clusters."""

    redirect: AskError
    """ASK, or MOVED, which is a subclass of AskError in redis-py."""


class PendingCall:
    """One caller's call, queued or in flight. It is done when it has a reply or a failure."""

    __slots__ = ("call", "command", "failure", "give_up_at", "queued_behind", "reply", "waiter")

    def __init__(self, call: Call, give_up_at: float, command: Command[Any, Any] | None = None) -> None:
        self.call = call
        self.give_up_at = give_up_at
        self.command = command
        """The command of the call, in asyncio only: there the dispatcher decodes the reply for the caller."""
        self.reply: list[Any] | None = None
        self.failure: Exception | None = None
        self.queued_behind: Any = None
        """The batch that was in flight when the call was queued; None once its own batch is taken."""
        self.waiter: Any = None
        """The driver's object that wakes the caller."""

    @property
    def done(self) -> bool:
        return self.reply is not None or self.failure is not None


@dataclass(slots=True)
class AwaitCalls:
    """Queue the calls, each for its shard, and wait until all are done. A shard's calls are sent in queue order."""

    pending_calls: list[PendingCall]


Effect: TypeAlias = Send | Sleep | FollowRedirect | AwaitCalls
Flow: TypeAlias = Generator[Effect, Any, T]
