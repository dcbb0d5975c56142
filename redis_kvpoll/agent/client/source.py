"""Where a channel's connections come from. To add a source: implement AgentSource."""

from __future__ import annotations

import os
import socket
from typing import Protocol

ENDED = "it ended the connection"
"""What is logged of an agent that has ended a connection without a word."""


class AgentSource(Protocol):
    """Where a channel gets its connections from: a launcher, or the path of a service."""

    def connect(self, newer_than: int) -> tuple[socket.socket, int]:
        """Return a connection and the agent's number, 0 if unknown. The number is above ``newer_than`` where the source
        can start an agent. OSError if there is none.
        """

    @property
    def ended_text(self) -> str:
        """What the log says of an agent that has ended a connection without a word."""


class ServicePath:
    """The socket of an agent that somebody else starts, and whose log they know."""

    ended_text = ENDED

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def connect(self, newer_than: int) -> tuple[socket.socket, int]:
        """Return a connection, whichever agent it is."""
        return connect_to(self.path), 0


def connect_to(path: str) -> socket.socket:
    """Return a connection to the agent that listens at a path. OSError if none does."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.setblocking(False)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection
