"""The agent's side: it accepts processes, passes their messages to sessions, and tells each session how it ended.

Invariants:

- A process is ended only by its own goodbye or by the kernel's word, and only after all its messages were passed on.
- An agent that is not the newest one of its engine ends nobody: its sessions learn ``superseded``, whatever it sees.
- Processes that are busy do not wake the agent. See ServerTiming: it looks again and again, and blocks only after a
  while without a message. To wake a process that sleeps costs the sender ten times as much as the message.
- It blocks only after it has told all processes that it sleeps, and has then found nothing in their rings: whoever
  writes there later wakes it.

It knows nothing of what the messages mean; a session does.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from redis_kvpoll.agent import frames
from redis_kvpoll.agent.server.acceptor import Acceptor
from redis_kvpoll.agent.server.agent_sessions import OpenSession, OpenSessions
from redis_kvpoll.agent.server.peer_socket import Peer
from redis_kvpoll.agent.server.process_death import has_ended

BEAT_SECONDS = 0.1

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
        self._number = number
        self._is_newest = is_newest
        self._timing = timing
        self._epoll = select.epoll()
        self._acceptor = Acceptor(listener, uids, self._epoll)
        self._peers: dict[int, Peer] = {}
        """By the descriptor of the socket: who is connected."""
        self._sessions = OpenSessions(open_session, number, self._epoll)
        self._is_blocking = False
        self._sleeps = 0
        """How often it has fallen asleep: a process wakes it once for each time."""
        self._barrier = threading.Lock()
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
        self._acceptor.begin()
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
            self._acceptor.close()

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
        self._acceptor.listen_on(listener)

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
        rings = [(descriptor, 0) for descriptor, peer in self._peers.items() if peer.has_new]
        for descriptor, events in [*rings, *self._epoll.poll(0)]:
            try:
                self._handle(descriptor, events)
            except Exception:
                self._drop_after_error(descriptor)
            if self._stopped.is_set():
                return
        if now - self._last_message < self._timing.quiet or not self._fall_asleep():
            self._timer = loop.call_later(self._timing.poll, self._turn)
        elif not self._is_blocking:
            self._is_blocking = True
            loop.add_reader(self._epoll.fileno(), self._wake_up)

    def _wake_up(self) -> None:
        self._turn()
        if self._timer and self._is_blocking:
            self._is_blocking = False
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._show_sleep(0)

    def _fall_asleep(self) -> bool:
        """Tell all processes that they must wake this one. False if one has written something before it could know."""
        self._sleeps += 1
        self._show_sleep(self._sleeps)
        with self._barrier:  # See ring: no look below comes before what was just told.
            pass
        if any(peer.has_new for peer in self._peers.values()):
            self._show_sleep(0)
            return False
        return True

    def _show_sleep(self, sleep: int) -> None:
        for peer in self._peers.values():
            peer.show_sleep(sleep)

    def _handle(self, descriptor: int, events: int) -> None:
        if descriptor == self._acceptor.descriptor:
            self._accept()
        elif peer := self._sessions.watched(descriptor):
            if has_ended(descriptor):  # The event may be of a former watch with the same number.
                self._see_death(peer)
        elif peer := self._peers.get(descriptor):
            if events & select.EPOLLOUT:
                peer.flush()
            self._read(peer, peer.messages() if events else peer.ring_messages())

    def _drop_after_error(self, descriptor: int) -> None:
        """Close one connection, which connects again: all others must be heard on."""
        peer = self._sessions.watched(descriptor) or self._peers.get(descriptor)
        logger.exception("the agent has a bug; report this traceback")
        if peer is not None:
            self._close(peer)

    def _accept(self) -> None:
        for connection, pid, uid in self._acceptor.accepted():
            peer = Peer(connection, pid, uid, self._on_full, self._on_queued)
            if why := self._acceptor.refusal(uid):
                peer.refuse(why)
                peer.close()
                continue
            self._peers[connection.fileno()] = peer
            self._epoll.register(connection, select.EPOLLIN)

    def _read(self, peer: Peer, messages: Iterator[tuple[int, bytes]]) -> None:
        """Pass on what has come from a process, and see to the end of its connection."""
        try:
            for kind, payload in messages:
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
                self._read(former, former.messages(limit=None))
                self._disconnect(former)
                self._sessions.replace(former)
            if not self._sessions.open(peer, hello):
                self._see_death(peer)

    def _see_death(self, peer: Peer) -> None:
        """End a process that the kernel says is dead, after all that it sent."""
        if self.is_current():
            self._read(peer, peer.messages(limit=None))
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
        self._read(peer, peer.messages(limit=None))
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
