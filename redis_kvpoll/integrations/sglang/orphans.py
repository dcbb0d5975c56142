"""Ends rooms of prefill without a sender: decode's message has opened them, or SGLang has dropped an aborted request.

SGLang checks timeouts when a sender or receiver is polled; such a room has none, and would stay for ever. It ends
when decode has given up for certain: when it has not asked again for as long as the bootstrap's and the transfer's
timeouts. Never while a write of the room may be under way: then decode's pages are still in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from redis_kvpoll.integrations.sglang.registry import RoomRegistry

DEFAULT_TIMEOUT = 300.0
"""SGLang's default for both timeouts, in seconds."""


class Orphans:
    """The rooms without a sender of one prefill manager. ``waiting`` is decode's timeout, as text in seconds."""

    def __init__(self, manager: Any, registry: RoomRegistry, waiting: str | None) -> None:
        self._manager = manager
        self._registry = registry
        self._age = float(getattr(manager, "bootstrap_timeout", DEFAULT_TIMEOUT)) + _seconds(waiting)

    def end_old(self) -> list[int]:
        """End the rooms that are old enough; return them."""
        return [room for room in self._due() if self._end(room)]

    def _due(self) -> Iterator[int]:
        writing = getattr(self._manager, "_staging_outstanding", {})
        poisoned = getattr(self._manager, "_deferred_ack_poisoned_rooms", ())
        for room in self._registry.unclaimed.old(self._age):
            if not writing.get(room, 0) and room not in poisoned:
                yield room

    def _end(self, room: int) -> bool:
        infos = self._manager.transfer_infos
        asked = infos.get(room)
        if not self._registry.end_unclaimed(room, self._age):
            return False  # its sender has just come, or decode has asked anew
        if infos.get(room) is asked:  # otherwise it asks just now
            infos.pop(room, None)
        return True


def _seconds(text: str | None) -> float:
    try:
        return float(text or DEFAULT_TIMEOUT)
    except ValueError:  # SGLang uses its default then, too
        return DEFAULT_TIMEOUT
