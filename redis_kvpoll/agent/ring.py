"""A ring buffer of packets in shared memory: one process writes, another one reads. Pure, over memoryviews.

The ring is the *head*, how many bytes the writer has written since the beginning, on a page of its own, and SIZE bytes
of records. A record is a packet with its size before it, and begins at a multiple of 8 bytes. It is contiguous: where
it does not fit before the ring's end, a record of size 0 says that the rest is skipped. Two words of the agent's page,
which the writer only reads, are the reader's *tail*, how many bytes it has read, and the number of its present sleep.

Invariants:

- Storing the head is the last step of a write. Whoever interrupts, forks or kills the writer at any place, the ring has
  a record wholly or not at all, and nobody keeps a copy of the head that could differ.
- The writer waits for nothing: not for room, nor for another thread, which may be its own under a signal handler.
- The reader believes nothing: it copies a packet before anybody parses it, and a head or size that cannot be is a
  FrameError.

Python has no memory barriers. x86-64 shows stores in their order, so a record is there when its head is; elsewhere
there is no ring: see ``is_supported``. A load may overtake a store, so that a writer and a reader that falls asleep
might each miss the other's word. On both sides an operation of a lock lies between the two, which is a full barrier on
x86-64. Python does not promise that; a wake that were lost would be made good by the PING of each tick.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable

from redis_kvpoll.agent import frames

SIZE = 65_536
"""Bytes of records: some 800 changes of rooms, three times what a socket holds, and three of the largest packets. A
reader that looks every 2 ms leaves a small part of it in use."""
HEAD_BYTES = 4096
"""The page of the head. It is written for each message, and no other word of its cache line may be."""
RING_BYTES = HEAD_BYTES + SIZE
SLEEP_WORD, TAIL_WORD = 16, 32
"""Where the agent's page has them, in words of 8 bytes: apart from what changes with each packet of the agent's, so
that the writer's CPU keeps the line that it looks at for each message."""
_ALIGNED = 8
_SIZE = struct.Struct("<H")
_RECORD = struct.Struct("<HBB")
"""The packet's size, and its header: kind and flags."""
_HEADER = frames.HEADER.size
_PIECE = frames.PIECE
_LARGEST = _HEADER + _PIECE
_CLOSED = TypeError, ValueError
"""What a view raises that was released, perhaps in the middle of a write: by a fork, or at the connection's end."""
_AWAKE = memoryview(bytes(8 * (TAIL_WORD + 1))).cast("Q")
"""The page of a reader that never sleeps, and has read nothing."""


def is_supported() -> bool:
    """Whether this CPU keeps the order of stores, and stores a word of 8 bytes at once."""
    return os.uname().machine == "x86_64" and sys.maxsize > 2**32


def _nobody() -> None:
    """Wake nobody: the ring is closed."""


def _refuse(kind: int, payload: bytes) -> bool:
    return False


class RingWriter:
    """The writer's end. ``lock`` is that of all that the caller sends, ``unsent`` what it must send first; ``wake``
    wakes the reader. Slots, as with cold caches each line of memory counts.
    """

    __slots__ = ("_data", "_head", "_limit", "_lock", "_pack", "_page", "_unsent", "_wake", "otherwise")

    def __init__(
        self,
        ring: memoryview,
        page: memoryview,
        lock: threading.Lock,
        unsent: deque[bytes],
        wake: Callable[[], None],
    ) -> None:
        self._lock = lock
        self._unsent = unsent
        self._limit = 0
        """How far the head may go without another look at the tail, within this round of the ring."""
        self._pack = _RECORD.pack
        self._data = ring[HEAD_BYTES:]
        self._head = ring[:8].cast("Q")
        self._page = page
        self._wake = wake
        self.otherwise: Callable[[int, bytes], bool] = _refuse
        """Sends what ``write`` cannot, if it can be sent."""

    def write(self, kind: int, payload: bytes) -> bool:
        """Send a message. What is larger than a packet, or comes while there is no room or another thread is writing,
        goes ``otherwise``."""
        if not self._lock.acquire(False):
            return self.otherwise(kind, payload)
        try:
            size = len(payload)
            head, needed = self._head[0], size + 11 & -8  # 4 of the record's and packet's headers, rounded up to 8
            is_put = not self._unsent and size <= _PIECE
            if is_put and head + needed > self._limit:
                head = self._make_room(head, needed)
                is_put = head >= 0
            if is_put:
                at = head % SIZE
                self._data[at : at + 4 + size] = self._pack(size + _HEADER, kind, 0) + payload  # at once: it is faster
                self._head[0] = head + needed
        except _CLOSED:
            is_put = False
        finally:
            self._lock.release()
        if not is_put:
            return self.otherwise(kind, payload)
        if self._page[SLEEP_WORD]:
            self._wake()
        return True

    def put(self, packet: bytes) -> bool:
        """Write a packet. False if there is no room. The caller has the lock, and then calls ``wake_reader``."""
        size = len(packet)
        try:
            head, needed = self._head[0], size + _SIZE.size + _ALIGNED - 1 & -_ALIGNED
            if head + needed > self._limit and (head := self._make_room(head, needed)) < 0:
                return False
            at = head % SIZE + _SIZE.size
            self._data[at : at + size] = packet
            _SIZE.pack_into(self._data, head % SIZE, size)
            self._head[0] = head + needed
        except _CLOSED:
            return False
        return True

    def wake_reader(self) -> None:
        """Wake the reader if it sleeps: it may not have seen what was written just before."""
        if self._page[SLEEP_WORD]:
            self._wake()

    @property
    def sleep(self) -> int:
        """The number of the reader's present sleep; 0 while it is awake."""
        return self._page[SLEEP_WORD]

    @property
    def has_room(self) -> bool:
        """Whether any packet fits: at most a quarter is in use, as the kernel says it of a socket."""
        return self._head[0] - self._page[TAIL_WORD] <= SIZE // 4

    def close(self) -> None:
        """Write nothing from now on, not even to the end of a ``write`` that was interrupted."""
        self._head.release()
        self._data.release()
        self._page, self._wake = _AWAKE, _nobody

    def _make_room(self, head: int, needed: int) -> int:
        """Return where a record may begin now, behind what is skipped of this round; -1 if there is no room."""
        free, end = self._page[TAIL_WORD] + SIZE, head - head % SIZE + SIZE
        if head + needed > end and end <= free:
            _SIZE.pack_into(self._data, head % SIZE, 0)
            self._head[0] = head = end
            end += SIZE
        self._limit = min(free, end)  # Behind the head: a limit of the next round is wrong in this one.
        return head if head + needed <= self._limit else -1


class RingReader:
    """The reader's end."""

    __slots__ = ("_data", "_head", "_page", "_tail")

    def __init__(self, ring: memoryview, page: memoryview) -> None:
        self._data = ring[HEAD_BYTES:]
        self._head = ring[:8].cast("Q")
        self._page = page
        self._tail = 0
        """The tail, which the page only tells: the writer could change it there."""

    @property
    def has_new(self) -> bool:
        """Whether there is something to read."""
        return self._head[0] != self._tail

    def published(self) -> int:
        """Return the head: what is written later waits for the next look. FrameError if it cannot be that."""
        head: int = self._head[0]
        if not 0 <= head - self._tail <= SIZE or head % _ALIGNED:
            raise frames.FrameError(
                f"a ring of {SIZE:,} bytes with the head at {head:,} and the tail at {self._tail:,}"
            )
        return head

    def take(self, head: int) -> bytes | None:
        """Return a copy of the next packet before ``head``, or None. FrameError if what is there is no record."""
        while self._tail < head:
            at = self._tail % SIZE
            (size,) = _SIZE.unpack_from(self._data, at)
            used = size + _SIZE.size + _ALIGNED - 1 & -_ALIGNED if size else SIZE - at
            if size > _LARGEST or at + used > SIZE or self._tail + used > head:
                raise frames.FrameError(
                    f"a record of {size:,} bytes at {at:,}, where {head - self._tail:,} are written"
                )
            packet = bytes(self._data[at + _SIZE.size : at + _SIZE.size + size])
            self._tail += used
            self._page[TAIL_WORD] = self._tail
            if size:
                return packet
        return None

    def close(self) -> None:
        """Let go of the memory."""
        self._head.release()
        self._data.release()
