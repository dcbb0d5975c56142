"""The sessions of the processes that an agent serves, and how each one ends.

Invariant: each session learns exactly one of ``goodbye``, ``killed`` and ``superseded``, or ``vanished``, which
``killed`` or ``superseded`` may follow.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
from collections.abc import Callable
from typing import Any, Literal, Protocol

from redis_kvpoll.agent import frames
from redis_kvpoll.agent.server.peer_socket import Peer
from redis_kvpoll.agent.server.process_death import has_ended, open_watch

VANISHED_SECONDS = 5.0
"""From a socket's end to ``vanished``. The kernel tells the death of a process only once it has released all its files,
which takes seconds for a device's."""
UNWATCHED_SECONDS = 1.0
"""The same for a process that cannot be watched: time for what it said last to be published."""

logger = logging.getLogger("redis_kvpoll.agent")

ProcessEnd = Literal["goodbye", "killed", "vanished", "superseded"]


LEFT: dict[ProcessEnd, str] = {
    "goodbye": "has left",
    "killed": "has ended without a goodbye",
    "vanished": "has lost its connection",
}
"""What the log says of the end of a session, unless the agent itself ends."""


class AgentSession(Protocol):
    """What the messages of one process mean. Nothing here may wait or raise."""

    def welcome(self) -> bytes:
        """Return the payload of the welcome."""

    def received(self, kind: int, payload: bytes) -> None:
        """Take a message."""

    def ended(self, how: ProcessEnd) -> None:
        """Take how the process, or its connection, ended. Nothing is received afterwards.

        - ``goodbye``: the process said so.
        - ``killed``: the process does not exist any more.
        - ``vanished``: the connection ended, but the process lives, or cannot be watched. It may connect again, as
          another session with the same ``Peer.channel``. If it dies before that, ``killed`` follows.
        - ``superseded``: this agent ends, and the process does not: no lease may be ended.
        """


OpenSession = Callable[[Peer, bytes], AgentSession]
"""Open the session of a process by its hello. The process may be sent messages at once: they follow the welcome. The
text of an exception is told to the process, which tries again later."""


class OpenSessions:
    """The sessions, also of processes whose connection ended, until they die or come back."""

    def __init__(self, open_session: OpenSession, number: int, epoll: select.epoll) -> None:
        self._open_session = open_session
        self._number = number
        self._epoll = epoll
        self._sessions: dict[Peer, AgentSession] = {}
        self._watched: dict[int, Peer] = {}
        """By the descriptor of the watch."""
        self._vanished: set[Peer] = set()
        """Whose session has learned it."""

    def __contains__(self, peer: Peer) -> bool:
        return peer in self._sessions

    def watched(self, descriptor: int) -> Peer | None:
        """Return the process whose death a descriptor tells."""
        return self._watched.get(descriptor)

    def of_channel(self, channel: bytes) -> list[Peer]:
        """Return the former connections of a channel."""
        return [peer for peer in self._sessions if peer.channel == channel]

    def open(self, peer: Peer, hello: frames.Hello) -> bool:
        """Open the session of a process, or refuse it. False if the process has died already."""
        version = frames.common_version(hello.versions)
        if version is None:
            ours, theirs = ("{} to {}".format(*each) for each in (frames.VERSIONS, hello.versions))
            peer.refuse(f"the agent speaks versions {ours} of the protocol, and this process {theirs}")
            return True
        peer.channel = hello.channel
        is_alive = True
        try:
            peer.watch = open_watch(peer.socket, hello)
        except ProcessLookupError:
            is_alive = False
        try:
            session = self._open_session(peer, hello.payload)
            welcome = frames.Welcome(self._number, session.welcome(), version)
        except Exception as error:
            logger.exception("process %d is refused: its session cannot be opened", peer.pid)
            peer.refuse(str(error))
            self._unwatch(peer)
            return True
        self._sessions[peer] = session
        if peer.watch is not None:
            self._watched[peer.watch] = peer
            self._epoll.register(peer.watch, select.EPOLLIN)
        peer.welcome(welcome)
        logger.info("process %d of user %d has joined", peer.pid, peer.uid)
        return is_alive

    def deliver(self, peer: Peer, kind: int, payload: bytes) -> bool:
        """Pass on a message. False if the process has no session."""
        session = self._sessions.get(peer)
        if session is None:
            return False
        self._call(session.received, kind, payload)
        return True

    def end(self, peer: Peer, how: ProcessEnd) -> None:
        """End a session for good, if it has not ended."""
        session = self._sessions.pop(peer, None)
        self._vanished.discard(peer)
        self._unwatch(peer)
        if session is not None:
            self._end(peer, session, how)

    def lose(self, peer: Peer) -> None:
        """See to a session whose connection has ended: wait for the kernel's word, then call it vanished.

        Until then it goes on with what the process has said. Once it has vanished, it publishes nothing more.
        """
        if peer.watch is not None and has_ended(peer.watch):
            self.end(peer, "killed")
        else:
            seconds = UNWATCHED_SECONDS if peer.watch is None else VANISHED_SECONDS
            asyncio.get_running_loop().call_later(seconds, self._vanish, peer)

    def replace(self, former: Peer) -> None:
        """End the session of a former connection, whose process has connected again."""
        if former in self._vanished:
            self._sessions.pop(former, None)
        self.end(former, "vanished")

    def supersede(self) -> None:
        """End all sessions, because this agent ends."""
        for peer in list(self._sessions):
            self.end(peer, "superseded")

    def _vanish(self, peer: Peer) -> None:
        if peer.watch is None:
            self.end(peer, "vanished")
        elif peer in self._sessions and peer not in self._vanished:
            self._vanished.add(peer)
            self._end(peer, self._sessions[peer], "vanished")

    def _end(self, peer: Peer, session: AgentSession, how: ProcessEnd) -> None:
        if how != "superseded":  # then the agent ends, and says so
            logger.info("process %d %s", peer.pid, LEFT[how])
        self._call(session.ended, how)

    def _unwatch(self, peer: Peer) -> None:
        watch, peer.watch = peer.watch, None
        if watch is not None:
            if self._watched.pop(watch, None):
                self._epoll.unregister(watch)
            os.close(watch)

    @staticmethod
    def _call(method: Callable[..., None], *arguments: Any) -> None:
        try:
            method(*arguments)
        except Exception:
            logger.exception("a session failed")
