"""One connection of a process to its agent.

Invariants: no call waits, and none raises. A thread that finds another one sending or receiving gives up at once, so a
signal handler that interrupts its own thread here cannot wait for itself, and no two messages change places.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from redis_kvpoll.agent import frames

logger = logging.getLogger("redis_kvpoll")

_PACKET = frames.PIECE + frames.HEADER.size
_NOW = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL if hasattr(socket, "MSG_NOSIGNAL") else socket.MSG_DONTWAIT
_DESCRIPTOR_SPACE = socket.CMSG_SPACE(4)
PATIENCE = 1.0
"""Seconds to wait for a thread that is in the middle of a callback when the connection ends."""
ENDED = "it ended the connection"
"""What is logged of an agent that has ended a connection without a word."""
COUNTER_BYTES = 4096
"""One page, of which 8 bytes count the packets, 8 show that the agent's process runs, and 8 count the pings read."""


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


def start_of(pid: int) -> int:
    """Return when a process started, in the kernel's clock ticks, or 0 if that cannot be known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return int(stat.rpartition(b")")[2].split()[19])  # The 22nd field; the second one, a name, may have spaces.
    except (OSError, ValueError, IndexError):
        return 0


class Link:
    """A connected socket, and what is sent and received on it."""

    def __init__(self, connection: socket.socket, agent: int = 0) -> None:
        self.socket = connection
        self.agent = agent
        """The number of the agent, as far as it is known before its welcome."""
        self.is_welcome = False
        self.is_ended = False
        self.wants_room = False
        """A message was refused, or its rest was not sent, since this was last set to False."""
        self.questions = 0
        """How often the agent was asked whether it is there, since its welcome."""
        self.greeter: int | None = None
        """The thread that alone may send, if there is one."""
        self.refusal = ""
        """Why the agent does not serve this process."""
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._unsent: deque[bytes] = deque()
        """The last pieces of a message whose first ones are sent."""
        self._assembler = frames.Assembler()
        self._received = 0
        self._counter: memoryview | None = None
        """How many packets the agent has sent: memory that it shares, so that a look costs no system call."""

    @property
    def has_new(self) -> bool:
        """Whether there may be something to receive."""
        counter = self._counter
        return counter is None or counter[0] != self._received

    @property
    def beats(self) -> int:
        """How often the agent has shown that its process runs; it does that while its event loop is busy, too."""
        return self._counter[1] if self._counter is not None else 0

    @property
    def answers(self) -> int:
        """How many pings the agent has read, as far as it says so here."""
        return self._counter[2] if self._counter is not None else 0

    @property
    def received(self) -> int:
        """How many packets have come."""
        return self._received

    @property
    def has_lasted(self) -> bool:
        """Whether the connection has lasted for a while since its welcome: from one question to the next."""
        return self.questions > 1

    @property
    def is_in_use(self) -> bool:
        """Whether a thread is sending or receiving now; for ever if an exception of a signal handler ended that."""
        return self._sending.locked() or self._receiving.locked()

    def send(self, kind: int, payload: bytes) -> bool:
        """Send a message; False, without waiting, if there is no room or another thread is sending or greets."""
        greeter = self.greeter
        is_greeted_elsewhere = greeter is not None and greeter != threading.get_ident()
        if is_greeted_elsewhere or not self._sending.acquire(False):
            self.wants_room = True
            return False
        try:
            if self._unsent and not self._send_rest():
                return False
            if len(payload) > frames.PIECE:
                return self._send_pieces(kind, payload)
            self.socket.send(frames.WHOLE[kind] + payload, _NOW)
            return True
        except BlockingIOError:
            self.wants_room = True
        except OSError:
            self.is_ended = True
        finally:
            self._sending.release()
        return False

    def flush(self) -> bool:
        """Send what is left of a message; False if there is no room for it, or another thread is sending.

        Then ``wants_room`` is set: what that thread kept from being sent is still to come.
        """
        if not self._sending.acquire(blocking=False):
            self.wants_room = True
            return False
        try:
            return self._send_rest()
        except OSError:
            self.is_ended = True
            return False
        finally:
            self._sending.release()

    def _send_pieces(self, kind: int, payload: bytes) -> bool:
        """Begin a message of several packets. Once its first one is sent, the message counts as sent."""
        pieces = deque(frames.packets(kind, payload))
        self.socket.send(pieces[0], _NOW)
        pieces.popleft()
        self._unsent = pieces
        self._send_rest()
        return True

    def _send_rest(self) -> bool:
        while self._unsent:
            try:
                self.socket.send(self._unsent[0], _NOW)
            except BlockingIOError:
                self.wants_room = True
                return False
            self._unsent.popleft()
        return True

    def receive(self, deliver: Callable[[Link, int, bytes], None]) -> bool:
        """Pass on each message that has come; False, without waiting, if another thread does so now."""
        if not self._receiving.acquire(blocking=False):
            return False
        try:
            while (packet := self._take()) is not None:
                message = self._assembler.add(packet)
                if message:
                    deliver(self, *message)
        except frames.FrameError as error:
            logger.error("redis_kvpoll: the agent sent %s; connecting again", error)
            self.is_ended = True
        finally:
            self._receiving.release()
        return True

    def _take(self) -> bytes | None:
        """Return the next packet, or None if there is none now."""
        while True:
            try:
                packet = self.socket.recv(_PACKET, _NOW) if self.is_welcome else self._take_first()
            except ConnectionResetError:
                continue  # The kernel says so once, before it gives the packets that are still in the queue.
            except BlockingIOError:
                return None
            except OSError:
                packet = b""
            if not packet:
                self.is_ended = True
                return None
            self._received += 1
            return packet

    def _take_first(self) -> bytes:
        """Return the next packet, and keep the shared counter that comes with the welcome."""
        packet, attached, _, _ = self.socket.recvmsg(_PACKET, _DESCRIPTOR_SPACE, _NOW)
        for level, kind, descriptor in attached:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and len(descriptor) >= 4:
                self._share(int.from_bytes(descriptor[:4], sys.byteorder))
        return packet

    def _share(self, descriptor: int) -> None:
        with contextlib.suppress(OSError, ValueError):  # Without it, a look is a system call.
            self._counter = memoryview(mmap.mmap(descriptor, COUNTER_BYTES, prot=mmap.PROT_READ)).cast("Q")
        os.close(descriptor)

    def end(self) -> None:
        """End the connection. After that nothing is delivered, unless a delivery takes longer than PATIENCE."""
        self.is_ended = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        # Not closed while another thread is about to use its number. One that holds a lock for longer is in a callback,
        # or a signal handler threw it out.
        self._receiving.acquire(timeout=PATIENCE)
        self._sending.acquire(timeout=PATIENCE)
        self.socket.close()
