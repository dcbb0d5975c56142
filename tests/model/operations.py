"""The processes, and the operations that the explorer combines in every way.

An operation builds a real Command, as a store does, and describes what its caller learns from the decoded reply.
To add one: a line or two in a tuple below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import room_commands
from redis_kvpoll.protocol.script_call import CallContext, Command
from tests.model.table import NAMESPACE, ROOM


class Process(NamedTuple):
    """One process: all that its next steps depend on."""

    kind: int
    """Which of the setting's kinds."""
    left: int
    """Operations that it has left."""
    handle: bytes = b""
    """The generation that it has a handle of."""
    held: Any = None
    """What its store tracks of the room, to recover it."""
    ended: bytes = b""
    """The generation that it has sent a clear of: its own replaying may not bring it back."""
    seen: bytes = b""
    """The highest generation that it has seen."""
    pending: int = -1
    """The operation whose reply was lost and that it has to send again."""
    must_replay: bool = False


@dataclass(frozen=True)
class Operation:
    """One operation of the setting."""

    name: str
    command: Callable[[Process, CallContext], Command[Any, Any] | None]
    """The command that the process sends; None when it has nothing to send."""
    learn: Callable[[Process, Any], Process] = lambda process, _: process
    """The process after a reply."""
    says: Callable[[Process], str | None] = lambda _: None
    """The status that it writes."""
    fence: Callable[[Process], str | None] = lambda _: None
    """The generation through which it writes."""
    creates: bool = False
    """Whether it may create a room with any status."""
    clears: bool = False
    reads: bool = False
    saying: tuple[str, ...] | None = None
    """The ranks that report Success, if the process speaks for all ranks."""
    all_ranks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """Processes of one kind are interchangeable."""

    name: str
    context: CallContext

    @property
    def rank(self) -> str:
        return self.context.rank


@dataclass(frozen=True)
class Setting:
    """What is explored: everything that these processes can do to one room, in every order."""

    policy: str
    kinds: tuple[Kind, ...]
    processes: tuple[int, ...]
    """The kind of each."""
    each: int
    """Operations that each process has."""
    operations: tuple[Operation, ...]
    lost: int = 1
    """Replies that may be lost on one path."""
    expiries: int = 1
    losses: int = 0
    """How often the server may lose all data on one path."""
    is_behind: bool = False
    """Whether the clock of the server that comes after such a loss is behind all generations."""
    replay: Operation | None = None
    broken: dict[str, Callable[[str], str]] = field(default_factory=dict)
    """Mutations of scripts: {name: from a source, another}."""


def context(policy: str, mode: str = "prefill", rank: str = "", world_size: str = "") -> CallContext:
    return CallContext(
        ttl_ms="900000",
        terminal_ttl_ms="300000",
        rank=rank,
        world_size=world_size,
        nonce="n",
        namespace=NAMESPACE,
        shards=1,
        policy=policy,
        mode=mode,
        feed_length="100",
    )


def _update(status: KVPoll) -> Operation:
    command = room_commands.update_status(ROOM, status)
    return Operation(f"update {status.name}", lambda *_: command, says=lambda _: status.name)


def _plain(name: str, command: Command[Any, Any], **about: Any) -> Operation:
    return Operation(name, lambda *_: command, **about)


UPDATES = tuple(_update(status) for status in KVPoll)
UNFENCED = (
    *UPDATES,
    _plain("abort", room_commands.abort(ROOM, "aborted"), says=lambda _: "Failed"),
    _plain("clear", room_commands.clear(ROOM), clears=True),
    _plain("touch", room_commands.touch([ROOM])),
    _plain("record_failure", room_commands.record_failure(ROOM, "cause")),
    _plain("set_decode_prefix_len", room_commands.set_decode_prefix_len(ROOM, 7)),
    _plain("pop_decode_prefix_len", room_commands.pop_decode_prefix_len(ROOM)),
)
