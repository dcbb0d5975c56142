"""One connection of a process to its agent.

Invariants: no call waits, and none raises. A thread that finds another one sending or receiving gives up at once, so a
signal handler that interrupts its own thread here cannot wait for itself, and no two messages change places.

Where the agent's memory has a ring, all messages go there, so that none of them can overtake another one. The socket
has the hello, and the pings: they wake the agent, too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from redis_kvpoll.agent import frames, shared_memory
from redis_kvpoll.agent.ring import RingWriter

logger = logging.getLogger("redis_kvpoll")

_PACKET = frames.PIECE + frames.HEADER.size
_NOW = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL if hasattr(socket, "MSG_NOSIGNAL") else socket.MSG_DONTWAIT
_DESCRIPTOR_SPACE = socket.CMSG_SPACE(4)
PATIENCE = 1.0
"""Seconds to wait for a thread that is in the middle of a callback when the connection ends."""


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
        self._page: memoryview | None = None
        """What the agent shows in the memory that it shares, so that a look costs no system call."""
        self.ring: RingWriter | None = None
        """The ring in that memory, if there is one."""
        self._woken_from = 0
        """The agent's last sleep that a message of this connection has ended."""

    @property
    def has_new(self) -> bool:
        """Whether there may be something to receive."""
        page = self._page
        return page is None or page[shared_memory.SENT_WORD] != self._received

    @property
    def beats(self) -> int:
        """How often the agent has shown that its process runs; it does that while its event loop is busy, too."""
        return self._page[shared_memory.BEATS_WORD] if self._page is not None else 0

    @property
    def answers(self) -> int:
        """How many pings the agent has read, as far as it says so here."""
        return self._page[shared_memory.PINGS_WORD] if self._page is not None else 0

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

    @property
    def has_room(self) -> bool:
        """Whether the ring has room, where there is one; the kernel says it of the socket."""
        return self.ring is not None and self.ring.has_room

    def send(self, kind: int, payload: bytes) -> bool:
        """Send a message; False, without waiting, if there is no room or another thread is sending or greets."""
        greeter = self.greeter
        is_greeted_elsewhere = greeter is not None and greeter != threading.get_ident()
        if is_greeted_elsewhere or not self._sending.acquire(False):
            self.wants_room = True
            return False
        try:
            if kind == frames.PING and self.ring is not None:
                return self._ping(self.ring)
            if self._unsent and not self._send_rest():
                return False
            if len(payload) > frames.PIECE:
                return self._send_pieces(kind, payload)
            return self._put(frames.WHOLE[kind] + payload)
        except OSError:
            self.is_ended = True
        finally:
            self._sending.release()
            self._wake_agent()
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
            self._wake_agent()

    def _send_pieces(self, kind: int, payload: bytes) -> bool:
        """Begin a message of several packets. Once its first one is sent, the message counts as sent."""
        self._unsent.extend(frames.packets(kind, payload))
        count = len(self._unsent)
        self._send_rest()
        if len(self._unsent) == count:
            self._unsent.clear()
            return False
        return True

    def _send_rest(self) -> bool:
        if self.is_ended:
            return False
        try:
            while self._unsent:
                if not self._put(self._unsent[0]):
                    return False
                self._unsent.popleft()
        except BaseException:
            self.is_ended = True  # It is unknown whether the last piece was sent: it might come twice.
            raise
        return True

    def _put(self, packet: bytes) -> bool:
        """Send a packet; False if there is no room for it."""
        try:
            if self.ring is None:
                self.socket.send(packet, _NOW)
                return True
            if self.ring.put(packet):
                return True
        except BlockingIOError:
            pass
        self.wants_room = True
        return False

    def _ping(self, ring: RingWriter) -> bool:
        """Send a ping by the socket, which wakes the agent; False if there is no room. Then what is unread wakes it."""
        sleep = ring.sleep
        try:
            self.socket.send(frames.WHOLE[frames.PING], _NOW)
        except BlockingIOError:
            return False
        self._woken_from = sleep
        return True

    def _wake_agent(self) -> None:
        """Wake an agent that sleeps, once for each of its sleeps: it may not have seen what is in the ring.

        A thread that is sending now does this when it has sent.
        """
        ring = self.ring
        if ring is None or ring.sleep in (0, self._woken_from) or not self._sending.acquire(False):
            return
        try:
            self._ping(ring)
        except OSError:
            self.is_ended = True
        finally:
            self._sending.release()

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
        self._page, ring = shared_memory.attach(descriptor)
        os.close(descriptor)
        if self._page is not None and ring is not None:
            self.ring = RingWriter(ring, self._page, self._sending, self._unsent, self._wake_agent)

    def end(self) -> None:
        """End the connection. After that nothing is delivered, unless a delivery takes longer than PATIENCE."""
        self.is_ended = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        # Not closed while another thread is about to use its number. One that holds a lock for longer is in a callback,
        # or a signal handler threw it out.
        self._receiving.acquire(timeout=PATIENCE)
        self._sending.acquire(timeout=PATIENCE)
        self.let_go()

    def let_go(self) -> None:
        """Close the socket and leave the memory, without waiting for anybody: in the child of a fork."""
        self.socket.close()
        self._page = None
        if self.ring is not None:
            self.ring.close()
