"""The rooms of prefill that have failed in a table: another rank's, which may still write to decode's pages.

Invariant: from the question whether an end is hidden until SGLang has told it, no failure of the table reaches the
room. Else SGLang would find the failure, and tell it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from redis_kvpoll.agent.merge import SUCCESS
from redis_kvpoll.integrations.sglang.registry import RoomRegistry

T = TypeVar("T")

MAX_NOTED = 1_000
"""Rooms: beyond it, those that are over are forgotten."""


class FailedByTable:
    """Fails rooms of prefill that have failed in a table, and knows them while they are open."""

    def __init__(self, registry: RoomRegistry) -> None:
        self._registry = registry
        self._lives: dict[int, int] = {}
        self._concluding: list[int] = []
        self._put_off: dict[int, list[tuple[int, int, str, bool]]] = {}
        """By room: the failures that wait for the end of what is being told."""
        self._lock = registry.changes.lock  # reentrant: a signal handler may interrupt its own thread here

    def fail(self, room: int, number: int, reason: str, publish: bool) -> None:
        """Fail a life, as ``RoomRegistry.fail_from_table``; after the transfer's end, if that is being told."""
        with self._lock:
            if room in self._concluding:
                self._put_off.setdefault(room, []).append((room, number, reason, publish))
                return
            if self._registry.is_undecided(room, number):
                if len(self._lives) >= MAX_NOTED:
                    self._lives = {room: life for room, life in self._lives.items() if self._is_current(room, life)}
                self._lives[room] = number  # before: SGLang may conclude the transfer at any moment
        self._registry.fail_from_table(room, number, reason, publish)

    def conclude(self, room: int, status: object, tell: Callable[[bool], T]) -> T:
        """Have SGLang tell decode of a transfer's end. ``tell`` gets whether that is hidden: this rank has written all
        of its part, and would tell the failure."""
        with self._lock:
            life = self._lives.get(room)
            self._concluding.append(room)
        try:
            return tell(status == SUCCESS and life is not None and self._is_current(room, life))
        finally:
            for failure in self._concluded(room):
                self.fail(*failure)

    def _concluded(self, room: int) -> list[tuple[int, int, str, bool]]:
        """Return what was put off for a room, unless another thread concludes it too."""
        with self._lock:
            self._concluding.remove(room)
            return [] if room in self._concluding else self._put_off.pop(room, [])

    def _is_current(self, room: int, life: int) -> bool:
        return self._registry.lives.number(room) == life
