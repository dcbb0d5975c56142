"""The agent's side: it accepts processes, passes their messages to sessions, and tells each session how it ended.

Invariants:

- A process is ended only by its own goodbye or by the kernel's word, and only after all its messages were passed on.
- An agent that is not the newest one of its engine ends nobody: its sessions learn ``superseded``, whatever it sees.
- Processes that are busy do not wake the agent. See ServerTiming: it looks again and again, and blocks only after a
  while without a message. To wake a process that sleeps costs the sender ten times as much as the message.

It knows nothing of what the messages mean; a session does.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import socket
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

from redis_kvpoll.agent import frames
from redis_kvpoll.agent.server.agent_sessions import OpenSession, OpenSessions
from redis_kvpoll.agent.server.peer_socket import MAX_PACKETS, Peer
from redis_kvpoll.agent.server.process_death import credentials_of, has_ended

BEAT_SECONDS = 0.1
ACCEPT_PAUSE_SECONDS = 1.0
"""After a connection that could not be accepted, as this process or the host has no descriptor or memory left."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
LOG_SECONDS = 60.0
"""Between two log lines of one user who is refused, or of connections that cannot be accepted."""

logger = logging.getLogger("redis_kvpoll.agent")


@dataclass(frozen=True, slots=True)
class ServerTiming:
    """Durations in seconds."""

    poll: float = 0.002
    """Between two looks for messages while processes are busy: a message that wakes nobody costs its sender a tenth."""
    quiet: float = 0.1
    """Without a message until the agent blocks for the next one."""
    check: float = 0.5
    """Between two checks whether this is the newest agent."""
    hello: float = 10.0
    """For a process to say who it is."""


class AgentServer:
    """Serves the processes that connect to a listening socket."""

    def __init__(
        self,
        listener: socket.socket,
        open_session: OpenSession,
        *,
        number: int = 0,
        is_newest: Callable[[], bool] = lambda: True,
        uids: Collection[int] = (),
        timing: ServerTiming = ServerTiming(),
    ) -> None:
        self.dropped = 0
        """How many processes were dropped because they did not read."""
        self._listener = listener
        self._number = number
        self._is_newest = is_newest
        self._uids = {os.getuid(), *uids}
        self._timing = timing
        self._epoll = select.epoll()
        self._peers: dict[int, Peer] = {}
        """By the descriptor of the socket: who is connected."""
        self._sessions = OpenSessions(open_session, number, self._epoll)
        self._logged: dict[str, float] = {}
        """When a line was logged last that would come again every second."""
        self._is_blocking = False
        self._timer: asyncio.TimerHandle | None = None
        self._next_check: asyncio.TimerHandle | None = None
        self._last_message = self._last_turn = 0.0
        self._stopped = asyncio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether no process is connected."""
        return not self._peers

    async def run(self) -> None:
        """Serve until ``stop``."""
        loop = asyncio.get_running_loop()
        self._last_turn = loop.time()
        self._listener.setblocking(False)
        self._epoll.register(self._listener, select.EPOLLIN)
        ended = threading.Event()
        threading.Thread(target=self._beat, args=(ended,), name="kvpoll-beat", daemon=True).start()
        self._turn()
        self._check_often()
        try:
            await self._stopped.wait()
        finally:
            ended.set()
            for timer in (self._timer, self._next_check):
                if timer is not None:
                    timer.cancel()
            loop.remove_reader(self._epoll.fileno())
            self._end_all()
            self._epoll.close()
            self._listener.close()

    def _beat(self, ended: threading.Event) -> None:
        """Show all processes that this one runs, while its event loop is busy, too; in a thread."""
        while not ended.wait(BEAT_SECONDS):
            for peer in list(self._peers.values()):
                peer.beat()

    def stop(self) -> None:
        """End ``run``: all sessions learn ``superseded``, and the processes look for another agent at once."""
        self._stopped.set()

    def listen_on(self, listener: socket.socket) -> None:
        """Accept from another socket from now on."""
        self._epoll.unregister(self._listener)
        self._listener.close()
        self._listener = listener
        listener.setblocking(False)
        self._epoll.register(listener, select.EPOLLIN)

    def is_current(self) -> bool:
        """Whether this is still the newest agent; otherwise it stops."""
        if not self._stopped.is_set() and not self._is_newest():
            logger.warning("agent %d stood still, and a newer one took its place: it ends", self._number)
            self._end_all()
            self._stopped.set()
        return not self._stopped.is_set()

    def _check_often(self) -> None:
        """Check what time brings. By a timer: when an agent that stood still wakes, it precedes the steps of tasks."""
        loop = asyncio.get_running_loop()
        if not self.is_current():
            return
        self._last_turn = loop.time()
        for peer in list(self._peers.values()):
            if peer not in self._sessions and peer.silent_for() > self._timing.hello:
                self._close(peer)
        self._next_check = loop.call_later(self._timing.check, self._check_often)

    def _turn(self) -> None:
        """Read what has come, then look again soon, or block until something comes."""
        loop = asyncio.get_running_loop()
        self._timer = None
        now = loop.time()
        if now - self._last_turn > 2 * self._timing.check and not self.is_current():
            return
        self._last_turn = now
        for descriptor, events in self._epoll.poll(0):
            try:
                self._handle(descriptor, events)
            except Exception:
                self._drop_after_error(descriptor)
            if self._stopped.is_set():
                return
        if now - self._last_message < self._timing.quiet:
            self._timer = loop.call_later(self._timing.poll, self._turn)
        elif not self._is_blocking:
            self._is_blocking = True
            loop.add_reader(self._epoll.fileno(), self._wake_up)

    def _wake_up(self) -> None:
        self._turn()
        if self._timer and self._is_blocking:
            self._is_blocking = False
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())

    def _handle(self, descriptor: int, events: int) -> None:
        if descriptor == self._listener.fileno():
            self._accept()
        elif peer := self._sessions.watched(descriptor):
            if has_ended(descriptor):  # The event may be of a former watch with the same number.
                self._see_death(peer)
        elif peer := self._peers.get(descriptor):
            if events & select.EPOLLOUT:
                peer.flush()
            self._read(peer)

    def _drop_after_error(self, descriptor: int) -> None:
        """Close one connection, which connects again: all others must be heard on."""
        peer = self._sessions.watched(descriptor) or self._peers.get(descriptor)
        logger.exception("the agent has a bug; report this traceback")
        if peer is not None:
            self._close(peer)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._accept_later(error)
                return
            connection.setblocking(False)
            pid, uid = credentials_of(connection)
            peer = Peer(connection, pid, uid, self._on_full, self._on_queued)
            if uid not in self._uids:
                self._log_rarely(f"a process of user {uid} was refused: KVPOLL_AGENT_UIDS does not name it")
                peer.refuse(f"user {uid} is not in the agent's KVPOLL_AGENT_UIDS")
                peer.close()
                continue
            self._peers[connection.fileno()] = peer
            self._epoll.register(connection, select.EPOLLIN)

    def _accept_later(self, error: OSError) -> None:
        """Leave who waits for a while: the listener would stay readable, and its event would come without end."""
        self._log_rarely(f"no process can join, which is tried every {ACCEPT_PAUSE_SECONDS:g} s: {error}")
        self._epoll.modify(self._listener, 0)
        asyncio.get_running_loop().call_later(ACCEPT_PAUSE_SECONDS, self._accept_again)

    def _accept_again(self) -> None:
        if not self._epoll.closed:
            self._epoll.modify(self._listener, select.EPOLLIN)

    def _log_rarely(self, text: str) -> None:
        """Log once a minute what happens as often as a process, or this one, tries again."""
        now = asyncio.get_running_loop().time()
        if self._logged.get(text, -LOG_SECONDS) <= now - LOG_SECONDS:
            self._logged[text] = now
            logger.warning("%s", text)

    def _read(self, peer: Peer, limit: int | None = MAX_PACKETS) -> None:
        """Pass on what has come from a process, and see to the end of its connection."""
        try:
            for kind, payload in peer.messages(limit):
                if kind >= frames.FIRST_CONTROL:
                    self._control(peer, kind, payload)
                elif self._sessions.deliver(peer, kind, payload):
                    self._last_message = self._last_turn
        except frames.FrameError as error:
            logger.warning("process %d sent %s: its connection is closed", peer.pid, error)
            peer.is_open = False
        if not peer.is_open:
            self._close(peer)

    def _control(self, peer: Peer, kind: int, payload: bytes) -> None:
        if kind == frames.PING:
            peer.pong()
        elif kind == frames.GOODBYE:
            self._sessions.end(peer, "goodbye")
        elif kind == frames.HELLO and peer not in self._sessions:
            hello = frames.Hello.unpack(payload)
            for former in self._sessions.of_channel(hello.channel):
                self._read(former, limit=None)
                self._disconnect(former)
                self._sessions.replace(former)
            if not self._sessions.open(peer, hello):
                self._see_death(peer)

    def _see_death(self, peer: Peer) -> None:
        """End a process that the kernel says is dead, after all that it sent."""
        if self.is_current():
            self._read(peer, limit=None)
            self._sessions.end(peer, "killed")
            self._disconnect(peer)

    def _on_full(self, peer: Peer) -> None:
        """Drop a process that does not read, once the session that is sending to it has returned."""
        self.dropped += 1
        logger.warning("process %d does not read: its connection is closed", peer.pid)
        asyncio.get_running_loop().call_soon(self._drop, peer)

    def _on_queued(self, peer: Peer) -> None:
        """Wait for room, too, while something is queued."""
        self._epoll.modify(peer.socket, select.EPOLLIN | (select.EPOLLOUT if peer.has_queued else 0))

    def _drop(self, peer: Peer) -> None:
        self._read(peer, limit=None)
        self._close(peer)

    def _close(self, peer: Peer) -> None:
        """Close a connection whose process may live."""
        self._disconnect(peer)
        if peer in self._sessions and self.is_current():
            self._sessions.lose(peer)

    def _disconnect(self, peer: Peer) -> None:
        descriptor = peer.socket.fileno()
        if self._peers.pop(descriptor, None):
            self._epoll.unregister(descriptor)
            peer.close()

    def _end_all(self) -> None:
        self._sessions.supersede()
        for peer in list(self._peers.values()):
            peer.send(frames.SUPERSEDED, b"")
            self._disconnect(peer)
