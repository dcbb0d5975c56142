"""Accepts the connections of the processes that an agent serves: those of its own user, and of some others.

Invariant: whoever cannot be accepted now, as there is no descriptor or memory left, is accepted later, and costs no CPU
meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import socket
from collections.abc import Collection, Iterator

from redis_kvpoll.agent.server.process_death import credentials_of

PAUSE_SECONDS = 1.0
"""After a connection that could not be accepted, as this process or the host has no descriptor or memory left."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
LOG_SECONDS = 60.0
"""Between two log lines of one user who is refused, or of connections that cannot be accepted."""

logger = logging.getLogger("redis_kvpoll.agent")


class Acceptor:
    """A listening socket, and who may connect to it."""

    def __init__(self, listener: socket.socket, uids: Collection[int], epoll: select.epoll) -> None:
        self._listener = listener
        self._uids = {os.getuid(), *uids}
        self._epoll = epoll
        self._logged: dict[str, float] = {}
        """When a line was logged last that would come again every second."""

    @property
    def descriptor(self) -> int:
        """What becomes readable when somebody connects."""
        return self._listener.fileno()

    def begin(self) -> None:
        """Listen from now on."""
        self._listener.setblocking(False)
        self._epoll.register(self._listener, select.EPOLLIN)

    def listen_on(self, listener: socket.socket) -> None:
        """Accept from another socket from now on."""
        self._epoll.unregister(self._listener)
        self._listener.close()
        self._listener = listener
        self.begin()

    def accepted(self) -> Iterator[tuple[socket.socket, int, int]]:
        """Yield each new connection, and its process and user."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._accept_later(error)
                return
            connection.setblocking(False)
            yield connection, *credentials_of(connection)

    def refusal(self, uid: int) -> str | None:
        """Return why a user is not served, or None."""
        if uid in self._uids:
            return None
        self._log_rarely(f"a process of user {uid} was refused: KVPOLL_AGENT_UIDS does not name it")
        return f"user {uid} is not in the agent's KVPOLL_AGENT_UIDS"

    def close(self) -> None:
        """Accept nobody any more."""
        self._listener.close()

    def _accept_later(self, error: OSError) -> None:
        """Leave who waits for a while: the listener would stay readable, and its event would come without end."""
        self._log_rarely(f"no process can join, which is tried every {PAUSE_SECONDS:g} s: {error}")
        self._epoll.modify(self._listener, 0)
        asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._accept_again)

    def _accept_again(self) -> None:
        if not self._epoll.closed:
            self._epoll.modify(self._listener, select.EPOLLIN)

    def _log_rarely(self, text: str) -> None:
        """Log once a minute what happens as often as a process, or this one, tries again."""
        now = asyncio.get_running_loop().time()
        if self._logged.get(text, -LOG_SECONDS) <= now - LOG_SECONDS:
            self._logged[text] = now
            logger.warning("%s", text)
