"""How a channel's thread waits: for messages, for room, for a call of ``wake``, or for time.

Invariant: ``wake`` may be called on any thread at any time, also after ``close``.
"""

from __future__ import annotations

import contextlib
import os
import select

from redis_kvpoll.agent.link import Link

ROOM_SECONDS = 0.005
"""Between two looks whether a full ring has room again. The agent tells nobody: it reads every 2 ms, unless it stands
still, and then a look more often would only cost."""


class LinkWaiter:
    """Waits for one connection after the other."""

    def __init__(self) -> None:
        self._waker = -1

    def open(self) -> None:
        """Make the descriptor that ``wake`` writes to."""
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def is_open(self) -> bool:
        """Whether ``wake`` wakes anybody."""
        return self._waker >= 0

    def wake(self) -> None:
        """End the wait of the channel's thread, or its next one."""
        with contextlib.suppress(OSError, ValueError):  # that thread may have ended just now
            os.eventfd_write(self._waker, 1)

    def close(self) -> None:
        """Release the descriptor."""
        waker, self._waker = self._waker, -1
        if waker >= 0:
            os.close(waker)

    def wait(self, link: Link, seconds: float, *, is_reading: bool) -> bool:
        """Wait for so long at most. Returns whether there is room for what was refused."""
        if link.ring is not None and link.wants_room:
            seconds = 0.0 if link.has_room else min(seconds, ROOM_SECONDS)
        poller = select.poll()
        poller.register(self._waker, select.POLLIN)
        wants_socket = link.wants_room and link.ring is None
        poller.register(link.socket, (select.POLLIN if is_reading else 0) | (select.POLLOUT if wants_socket else 0))
        found = dict(poller.poll(1000 * seconds))
        if self._waker in found:
            os.eventfd_read(self._waker)
        if link.ring is not None:
            return link.wants_room and link.has_room
        return bool(found.get(link.socket.fileno(), 0) & select.POLLOUT)
