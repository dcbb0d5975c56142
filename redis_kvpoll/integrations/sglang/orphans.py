"""Ends rooms of prefill that decode's message has opened, and that no sender has had.

SGLang checks timeouts when a sender or receiver is polled; such a room has none, and would stay for ever. It ends
when decode has given up for certain: after the bootstrap's and the transfer's timeouts. Never while a write of the room
may be under way: then decode's pages are still in use.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from redis_kvpoll.integrations.sglang.registry import RoomRegistry

WAITING_TIMEOUT = "SGLANG_DISAGGREGATION_WAITING_TIMEOUT"
DEFAULT_TIMEOUT = 300.0
"""SGLang's default for both timeouts, in seconds."""


class Orphans:
    """The rooms without a sender of one prefill manager."""

    def __init__(self, manager: Any, registry: RoomRegistry) -> None:
        self._manager = manager
        self._registry = registry

    @property
    def age(self) -> float:
        """The age in seconds at which a room without a sender ends."""
        bootstrap = getattr(self._manager, "bootstrap_timeout", DEFAULT_TIMEOUT)
        try:
            waiting = float(os.environ.get(WAITING_TIMEOUT, DEFAULT_TIMEOUT))
        except ValueError:
            waiting = DEFAULT_TIMEOUT
        return float(bootstrap) + waiting

    def end_old(self) -> list[int]:
        """End the rooms that are old enough; return them."""
        return [room for room in self._due() if self._end(room)]

    def _due(self) -> Iterator[int]:
        writing = getattr(self._manager, "_staging_outstanding", {})
        poisoned = getattr(self._manager, "_deferred_ack_poisoned_rooms", ())
        for room in self._registry.unclaimed(self.age):
            if not writing.get(room, 0) and room not in poisoned:
                yield room

    def _end(self, room: int) -> bool:
        infos = self._manager.transfer_infos
        asked = infos.get(room)
        if not self._registry.end_unclaimed(room):
            return False  # its sender has just come
        if infos.get(room) is asked:  # otherwise decode has just asked anew
            infos.pop(room, None)
        return True
