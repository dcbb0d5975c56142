"""The application of an agent: one session for each process that is connected, all in one event loop.

Invariant: one owner has one session in the table at a time. The next one waits for the end of the former ones: one
that keeps the lease for it, as after a broken connection, or that has still to publish what a dead process told.
"""

from __future__ import annotations

import asyncio
import logging

from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.server.agent_sessions import ProcessEnd
from redis_kvpoll.agent.server.peer_socket import Peer
from redis_kvpoll.agent.server.quiet import be_quiet
from redis_kvpoll.agent.session.lease import LeaseEnd
from redis_kvpoll.agent.session.session import TableSession
from redis_kvpoll.agent.session.shared_table import SharedTables

CLOSE_SECONDS = 4.0
"""For all sessions to end, when the agent does."""

logger = logging.getLogger("redis_kvpoll.agent")

_Key = tuple[str, str, str]
"""Server, namespace and owner."""
_ENDINGS: dict[str, LeaseEnd] = {
    "goodbye": LeaseEnd.LEAVE,
    "killed": LeaseEnd.LOST,
    "vanished": LeaseEnd.KEEP,
    "superseded": LeaseEnd.KEEP,
}


class TableSessions:
    """The sessions of all processes."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[None], tuple[_Key, TableSession]] = {}
        """By its run: each session that has not ended."""
        self._tables = SharedTables()

    def open_session(self, peer: Peer, hello: bytes) -> HostedSession:
        """Begin the session of a process. Its messages are kept until it has joined."""
        found = ClientHello.decode(hello)
        key = found.url, str(found.options.get("namespace")), found.owner
        formers = {task: session for task, (other, session) in self._running.items() if other == key}
        for former in formers.values():
            former.give_way()
        session = TableSession(found, peer.send, peer.silent_for, self._tables)
        task = asyncio.create_task(session.run(after=list(formers)))
        self._running[task] = key, session
        task.add_done_callback(self._running.pop)
        return HostedSession(session)

    def is_told(self) -> bool:
        """Whether no session has anything left to do."""
        return not self._running

    async def close(self) -> None:
        """End all sessions; the leases of processes that live stay for another agent."""
        for _, session in self._running.values():
            session.end(LeaseEnd.KEEP)
            session.give_up()
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_SECONDS)


class HostedSession:
    """A TableSession, as the agent's server knows a session."""

    def __init__(self, inner: TableSession) -> None:
        self.inner = inner

    def welcome(self) -> bytes:
        return b""

    def received(self, kind: int, payload: bytes) -> None:
        self.inner.received(kind, payload)

    def ended(self, how: ProcessEnd) -> None:
        """Take how the process ended."""
        self.inner.end(_ENDINGS[how], may_be_dead=how == "vanished")


def make() -> TableSessions:
    """Make the application, in the agent's event loop."""
    be_quiet()
    return TableSessions()
