"""One wait for a room."""

from __future__ import annotations

from collections.abc import Callable

from redis_kvpoll.errors import KVPollError
from redis_kvpoll.model import KVPoll


class Waiter:
    """One wait for a room to reach a status of ``goal``. ``wake`` is called once."""

    __slots__ = ("armed", "goal", "outcome", "room", "tag", "wake")

    def __init__(self, room: int, tag: str, goal: frozenset[KVPoll], wake: Callable[[], object]) -> None:
        self.room = room
        self.tag = tag
        self.goal = goal
        self.wake = wake
        self.armed = False
        """Whether the copy is new enough to end the wait. A room that is not followed yet is read first."""
        self.outcome: KVPoll | KVPollError | None = None

    def settle(self, outcome: KVPoll | KVPollError) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.wake()
