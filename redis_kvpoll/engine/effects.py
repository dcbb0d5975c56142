"""What a flow may ask its driver to do.

A flow is a generator that does no I/O: it yields the next effect to take, is given that effect's reply or exception,
and returns the result. The blocking and the asyncio store each drive the same flows with a few lines, so every
decision about failures is made once.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from redis.exceptions import AskError

from redis_kvpoll.protocol.script_call import Call, Command

T = TypeVar("T")


@dataclass(slots=True)
class Send:
    """Send ``words`` to the server that holds the shard of ``tag``, and give back its reply."""

    tag: str
    words: Sequence[str]
    timeout: float | None = None
    """Seconds; None is the connection's own, which is never above the deadline."""
    fresh: bool = False
    """Look first whether an idle connection is still open: what may not be repeated must not die of an old one."""
    asking: tuple[str, int] | None = None
    """The node that a cluster's ASK named, for this call only."""
    then: Sequence[Sequence[str]] = ()
    """Further commands, sent right behind over the same connection; the reply is then a list of all replies."""


@dataclass(slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(slots=True)
class FollowRedirect:
    """Learn from a cluster's MOVED where a slot now lives. The answer is whether this way knows of clusters."""

    redirect: AskError
    """ASK, or MOVED, which redis-py makes a kind of it."""


class PendingCall:
    """One caller's call on its way. It has arrived when it has a reply or a failure."""

    __slots__ = ("call", "command", "failure", "give_up_at", "queued_behind", "reply", "waiter")

    def __init__(self, call: Call, give_up_at: float, command: Command[Any, Any] | None = None) -> None:
        self.call = call
        self.give_up_at = give_up_at
        self.command = command
        """What the reply is for, where the driver reads it for the caller."""
        self.reply: list[Any] | None = None
        self.failure: Exception | None = None
        self.queued_behind: Any = None
        """The batch that was under way when it came, until its own departs."""
        self.waiter: Any = None
        """What its caller waits by, as the driver knows how."""

    @property
    def done(self) -> bool:
        return self.reply is not None or self.failure is not None


@dataclass(slots=True)
class AwaitCalls:
    """Wait until all pending_calls have arrived. What concerns one shard travels in the order in which it came."""

    pending_calls: list[PendingCall]


Effect: TypeAlias = Send | Sleep | FollowRedirect | AwaitCalls
Flow: TypeAlias = Generator[Effect, Any, T]
