"""The memory that an agent shares with one process: its layout, and how the process maps it.

The first page is the agent's: words of 8 bytes that count the packets it has sent, show that it runs, and count the
pings that it has read, and those of the ring. Behind it is the ring of the process's messages, where the CPU allows
one.

Invariants: the process maps the page read-only. Nobody can change the memory's size, as a store behind its end would
end the other side. The size says what there is: a process that knows no ring maps the page alone, and goes on by
socket, as it does where there is no ring.
"""

from __future__ import annotations

import contextlib
import mmap
import os

from redis_kvpoll.agent import ring

PAGE_BYTES = 4096
SENT_WORD, BEATS_WORD, PINGS_WORD = range(3)
WITH_RING = PAGE_BYTES + ring.RING_BYTES


def attach(descriptor: int) -> tuple[memoryview | None, memoryview | None]:
    """Map what an agent has made. Returns the page and the ring, or None for what cannot be had."""
    page = ring_memory = None
    with contextlib.suppress(OSError, ValueError):
        page = memoryview(mmap.mmap(descriptor, PAGE_BYTES, prot=mmap.PROT_READ)).cast("Q")
        if os.fstat(descriptor).st_size == WITH_RING and ring.is_supported():
            flags = mmap.MAP_SHARED | mmap.MAP_POPULATE  # so that no write waits for the kernel to find a page
            ring_memory = memoryview(mmap.mmap(descriptor, ring.RING_BYTES, flags, offset=PAGE_BYTES))
    return page, ring_memory
