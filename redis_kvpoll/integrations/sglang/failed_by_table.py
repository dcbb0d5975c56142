"""The rooms of prefill that have failed in a table: another rank's, which may still write to decode's pages."""

from __future__ import annotations

from redis_kvpoll.agent.merge import SUCCESS
from redis_kvpoll.integrations.sglang.registry import RoomRegistry

MAX_NOTED = 1_000
"""Rooms: beyond it, those that are over are forgotten."""


class FailedByTable:
    """Fails rooms of prefill that have failed in a table, and knows them while they are open."""

    def __init__(self, registry: RoomRegistry) -> None:
        self._registry = registry
        self._lives: dict[int, int] = {}

    def fail(self, room: int, number: int, reason: str, publish: bool) -> None:
        """Fail a life, as ``RoomRegistry.fail_from_table``."""
        if self._registry.is_undecided(room, number):
            if len(self._lives) >= MAX_NOTED:
                self._lives = {room: life for room, life in list(self._lives.items()) if self._is_current(room, life)}
            self._lives[room] = number  # before: SGLang may conclude the transfer at any moment
        self._registry.fail_from_table(room, number, reason, publish)

    def hides_end(self, room: int, status: object) -> bool:
        """Return whether this rank's end of a transfer must not be told to decode: it has written all of its part, and
        would tell the failure."""
        life = self._lives.get(room)
        return status == SUCCESS and life is not None and self._is_current(room, life)

    def _is_current(self, room: int, life: int) -> bool:
        return self._registry.current_life(room) == life
