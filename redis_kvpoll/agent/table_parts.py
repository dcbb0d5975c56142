"""The application of an agent: one table part for each process that is connected, all in one event loop.

Invariant: one owner has one table part in the table at a time. The next one waits for the end of the former ones: one
that keeps the lease for it, as after a broken connection, or that has still to publish what a dead process told.
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

_Key = tuple[str, str, str]
"""Server, namespace and owner."""
_ENDINGS: dict[str, Ending] = {
    "goodbye": Ending.LEAVE,
    "killed": Ending.LOST,
    "vanished": Ending.KEEP,
    "superseded": Ending.KEEP,
}


class TableParts:
    """The table parts of all processes."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[None], tuple[_Key, HostedPart]] = {}
        """By its run: each table part that has not ended."""
        self._tables = SharedTables()

    def open_session(self, peer: Peer, hello: bytes) -> HostedPart:
        """Begin the table part of a process. Its messages are kept until it has joined."""
        found = ClientHello.decode(hello)
        key = found.url, str(found.options.get("namespace")), found.owner
        formers = {task: part for task, (other, part) in self._running.items() if other == key}
        for former in formers.values():
            former.part.end(Ending.KEEP)
        part = HostedPart(TableSession(found, peer.send, peer.silent_for, self._tables))
        task = asyncio.create_task(part.part.run(after=list(formers)))
        self._running[task] = key, part
        task.add_done_callback(self._running.pop)
        return part

    def is_told(self) -> bool:
        """Whether no table part has anything left to do."""
        return not self._running

    async def close(self) -> None:
        """End all table parts; the leases of processes that live stay for another agent."""
        for _, part in self._running.values():
            part.part.end(Ending.KEEP)
            part.part.give_up()
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_SECONDS)


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
