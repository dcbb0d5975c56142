"""A process that the agent serves, its socket, and the ring of its messages.

Invariants:

- What is sent arrives in order, and nothing waits for a process that does not read: beyond MAX_QUEUED it is dropped,
  and connects again.
- What a process has written into its ring is read before the end of its connection is seen to.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator

from redis_kvpoll.agent import frames, shared_memory
from redis_kvpoll.agent.ring import SLEEP_WORD, RingReader
from redis_kvpoll.agent.server import sealed_memory

MAX_QUEUED = 8 * 1024 * 1024
"""The bytes that may wait for a process to read them."""
MAX_PACKETS = 1_000
"""How many packets of one process are read before the others' turn."""
_PACKET = frames.PIECE + frames.HEADER.size


class Peer:
    """A process, as a session knows it.

    ``on_full`` is called when more than MAX_QUEUED waits for it, ``on_queued`` whenever ``has_queued`` has changed.
    """

    def __init__(
        self,
        connection: socket.socket,
        pid: int,
        uid: int,
        on_full: Callable[[Peer], None],
        on_queued: Callable[[Peer], None],
    ) -> None:
        self.socket = connection
        self.pid = pid
        """As the agent sees it; 0 if it is in a foreign PID namespace."""
        self.uid = uid
        self.channel = b""
        """16 bytes that stay the same when the process connects again."""
        self.watch: int | None = None
        """The descriptor of the kernel's word for its death, or None: then its lease alone decides."""
        self.is_open = True
        self.last_heard = time.monotonic()
        self._on_full = on_full
        self._on_queued = on_queued
        self._assembler = frames.Assembler()
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._sent = 0
        self._page: memoryview | None = None
        """What the process sees of this agent; it might write there, so nothing in it is believed."""
        self._ring: RingReader | None = None
        self._ring_assembler = frames.Assembler()
        self._is_welcome = False
        self._awaits_room = False
        self._memory_to_send: int | None = None
        """The descriptor that goes with the welcome; None once it is sent."""

    @property
    def is_watched(self) -> bool:
        """Whether the kernel tells the end of the process."""
        return self.watch is not None

    @property
    def has_queued(self) -> bool:
        """Whether something waits for room."""
        return bool(self._queue)

    def silent_for(self) -> float:
        """Return for how many seconds nothing came. A process asks several times a second, unless it stands still."""
        return time.monotonic() - self.last_heard

    def send(self, kind: int, payload: bytes) -> bool:
        """Send a message, or queue it. False if the process is gone, or is dropped because it does not read."""
        if not self.is_open or self._queued > MAX_QUEUED:
            return False
        for packet in frames.packets(kind, payload):
            if self._queue or not self._is_welcome or not self._transmit(packet):
                self._queue.append(packet)
                self._queued += len(packet)
        self._note_queue()
        if self._queued > MAX_QUEUED:
            self._on_full(self)
            return False
        return True

    def welcome(self, welcome: frames.Welcome) -> None:
        """Send the welcome, with the shared memory, before all that is queued."""
        with contextlib.suppress(OSError):  # Without it, the process asks the kernel, and sends by the socket.
            self._memory_to_send = self._share()
        first = list(frames.packets(frames.WELCOME, welcome.pack()))
        self._queue.extendleft(reversed(first))
        self._queued += sum(map(len, first))
        self._is_welcome = True
        self.flush()

    def refuse(self, why: str) -> None:
        """Say why the process is not served, and take nothing more from it."""
        for packet in frames.packets(frames.REFUSED, why.encode(errors="replace")[: frames.PIECE]):
            self._transmit(packet)
        self.is_open = False

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        while self._queue and self._transmit(self._queue[0]):
            self._queued -= len(self._queue.popleft())
        self._note_queue()

    def messages(self, limit: int | None = MAX_PACKETS) -> Iterator[tuple[int, bytes]]:
        """Yield the messages that have come; ``is_open`` is False after the last one. FrameError if one is invalid.

        Only one of the two ways has a process's messages, so their order is the one in which they were sent.
        """
        yield from self.ring_messages(limit)
        taken = 0
        while self.is_open and (limit is None or taken < limit):
            try:
                packet = self.socket.recv(_PACKET)
            except ConnectionResetError:
                continue  # The kernel says so once, before it gives the packets that are still in the queue.
            except BlockingIOError:
                break
            except OSError:
                packet = b""
            if not packet:
                yield from self.ring_messages(None)  # what was written before the end, and since the look above
                self.is_open = False
                break
            taken += 1
            message = self._assembler.add(packet)
            if message:
                yield message
        if taken:
            self.last_heard = time.monotonic()

    def ring_messages(self, limit: int | None = MAX_PACKETS) -> Iterator[tuple[int, bytes]]:
        """Yield the messages that are in the ring now. FrameError if what is there cannot be."""
        ring = self._ring
        if ring is None:
            return
        head, taken = ring.published(), 0
        while self.is_open and taken != limit and (packet := ring.take(head)) is not None:
            taken += 1
            message = self._ring_assembler.add(packet)
            if message:
                yield message
        if taken:
            self.last_heard = time.monotonic()

    @property
    def has_new(self) -> bool:
        """Whether the ring has something to read."""
        return self._ring is not None and self._ring.has_new

    def show_sleep(self, sleep: int) -> None:
        """Show the process that the agent must be woken, by the number of its sleep; 0 if it is awake."""
        if self._page is not None:
            self._page[SLEEP_WORD] = sleep

    def pong(self) -> None:
        """Show the process that its ping was read, if possible without waking it."""
        if self._page is not None:
            self._page[shared_memory.PINGS_WORD] = (self._page[shared_memory.PINGS_WORD] + 1) % 2**32
        else:
            self.send(frames.PONG, b"")

    def beat(self) -> None:
        """Show the process that this one runs, however busy it is."""
        page = self._page  # a thread calls this, beside ``close``
        if page is not None:
            page[shared_memory.BEATS_WORD] = (page[shared_memory.BEATS_WORD] + 1) % 2**32

    def close(self) -> None:
        """Close the socket. The watch stays."""
        self.is_open = False
        self.socket.close()
        self._queue.clear()
        self._close_memory()
        if self._ring is not None:
            self._ring.close()
        self._page = self._ring = None  # The mapping goes with the last view of it, and has a descriptor, too.

    def _note_queue(self) -> None:
        """Say when something begins to wait for room, and when nothing does any more."""
        if self._is_welcome and self._awaits_room is not self.has_queued:
            self._awaits_room = self.has_queued
            self._on_queued(self)

    def _close_memory(self) -> None:
        descriptor, self._memory_to_send = self._memory_to_send, None
        if descriptor is not None:
            os.close(descriptor)

    def _transmit(self, packet: bytes) -> bool:
        """Give a packet to the kernel. False if there is no room. One for a process that is gone is lost."""
        try:
            if self._memory_to_send is None:
                self.socket.send(packet, socket.MSG_NOSIGNAL)
            else:
                socket.send_fds(self.socket, [packet], [self._memory_to_send], socket.MSG_NOSIGNAL)
                self._close_memory()
        except BlockingIOError:
            return False
        except OSError:
            return True
        self._sent += 1
        if self._page is not None:
            self._page[shared_memory.SENT_WORD] = self._sent
        return True

    def _share(self) -> int:
        descriptor, self._page, ring = sealed_memory.share()
        if ring is not None:
            self._ring = RingReader(ring, self._page)
        return descriptor
