"""The application of an agent: one table part for each process that is connected, all in one event loop.

Invariant: one owner has one table part at a time. One that comes back, as after a broken connection, waits for the end
of the former one, which keeps the lease for it.
"""

from __future__ import annotations

import asyncio
import logging

from redis_kvpoll.agent.agent_sessions import Ending as HowEnded
from redis_kvpoll.agent.lease import Ending
from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.peer_socket import Peer
from redis_kvpoll.agent.quiet import be_quiet
from redis_kvpoll.agent.session import TableSession
from redis_kvpoll.agent.shared_table import SharedTables

CLOSE_SECONDS = 4.0
"""For all table parts to end, when the agent does."""

logger = logging.getLogger("redis_kvpoll.agent")

_ENDINGS: dict[str, Ending] = {
    "goodbye": Ending.LEAVE,
    "killed": Ending.LOST,
    "vanished": Ending.KEEP,
    "superseded": Ending.KEEP,
}


class TableParts:
    """The table parts of all processes."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, str, str], asyncio.Task[None]] = {}
        """By server, namespace and owner: the run of the latest table part."""
        self._parts: dict[tuple[str, str, str], HostedPart] = {}
        self._all: set[asyncio.Task[None]] = set()
        self._tables = SharedTables()

    def open_session(self, peer: Peer, hello: bytes) -> HostedPart:
        """Begin the table part of a process. Its messages are kept until it has joined."""
        found = ClientHello.decode(hello)
        key = found.url, str(found.options.get("namespace")), found.owner
        former, former_task = self._parts.get(key), self._tasks.get(key)
        if former is not None:
            former.part.end(Ending.KEEP)
        part = self._parts[key] = HostedPart(TableSession(found, peer.send, peer.silent_for, self._tables))
        task = self._tasks[key] = asyncio.create_task(self._run(key, part, former_task))
        self._all.add(task)
        task.add_done_callback(self._all.discard)
        return part

    def is_told(self) -> bool:
        """Whether no table part has anything left to do."""
        return not self._all

    async def close(self) -> None:
        """End all table parts; their leases stay for another agent."""
        for part in self._parts.values():
            part.part.end(Ending.KEEP)
        if self._all:
            await asyncio.wait(self._all, timeout=CLOSE_SECONDS)

    async def _run(self, key: tuple[str, str, str], part: HostedPart, former: asyncio.Task[None] | None) -> None:
        if former is not None:
            await asyncio.wait([former])
        try:
            await part.part.run()
        finally:
            if self._parts.get(key) is part:
                del self._parts[key], self._tasks[key]


class HostedPart:
    """A table part, as the agent knows a session."""

    def __init__(self, part: TableSession) -> None:
        self.part = part

    def welcome(self) -> bytes:
        return b""

    def received(self, kind: int, payload: bytes) -> None:
        self.part.received(kind, payload)

    def ended(self, how: HowEnded) -> None:
        """Take how the process ended."""
        self.part.end(_ENDINGS[how], may_be_dead=how == "vanished")


def make() -> TableParts:
    """Make the application, in the agent's event loop."""
    be_quiet()
    return TableParts()
