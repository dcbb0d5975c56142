"""The kind of a client's connections: the same in sync and aio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def is_fake(connection_class: Any) -> bool:
    """Return whether a connection is fakeredis', which never waits, and has no INFO."""
    return bool(connection_class.__module__.startswith("fakeredis"))


@dataclass(frozen=True, slots=True)
class ConnectionKind:
    """How connections of a class are used."""

    read: Callable[..., Any]
    """Reads a reply."""
    is_plain: bool
    """Whether they send and read as redis-py's own do."""
    can_block: bool
    """Whether a call may wait on the server. fakeredis' cannot: nothing ends its blocking reads early, and in asyncio
    they outlive the connection."""

    @classmethod
    def of(cls, connection_class: Any, plain: Any, of_sentinel: Any) -> ConnectionKind:
        """Return the kind of a class. ``plain`` is redis-py's base class, ``of_sentinel`` its class for Sentinel."""
        # Sentinel's connection turns READONLY, which did not execute, into a lost connection, which may have.
        read = (plain if issubclass(connection_class, of_sentinel) else connection_class).read_response
        can_block = not is_fake(connection_class)
        sends_plainly = connection_class.send_packed_command is plain.send_packed_command
        return cls(read, can_block and sends_plainly and read is plain.read_response, can_block)
