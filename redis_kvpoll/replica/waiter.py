"""The waits for the rooms of a shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from redis_kvpoll.errors import KVPollError, RoomNotFoundError
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


class WaitedRooms(ABC):
    """The waiters for the rooms of a shard.

    ``is_relevant`` selects the rooms that are followed; None selects those that have waiters. ``statuses`` may have
    rooms of other shards, too.

    Invariant: while the shard is not synced, no wait ends, since the statuses may be old.
    """

    def __init__(self, statuses: dict[int, KVPoll], is_relevant: Callable[[int], bool] | None) -> None:
        self.waiters: dict[int, dict[Waiter, None]] = {}
        """By room, in the order of their arrival."""
        self.only_waited = is_relevant is None
        self.is_relevant = self.waiters.__contains__ if is_relevant is None else is_relevant
        self._statuses = statuses

    @property
    @abstractmethod
    def synced(self) -> bool:
        """Whether the statuses are current."""

    @abstractmethod
    def forget(self, room: int) -> None:
        """Drop everything that is kept of a room, waiters apart."""

    def enter(self, waiter: Waiter) -> None:
        """Add a waiter."""
        self.waiters.setdefault(waiter.room, {})[waiter] = None

    def arm(self, waiter: Waiter) -> None:
        waiter.armed = True
        self._evaluate(waiter.room)

    def leave(self, waiter: Waiter) -> None:
        """Remove a waiter. May be repeated."""
        others = self.waiters.get(waiter.room)
        if others is not None:
            others.pop(waiter, None)
            if not others:
                del self.waiters[waiter.room]
                if self.only_waited:
                    self.forget(waiter.room)

    def _evaluate_all(self) -> None:
        for room in list(self.waiters):
            self._evaluate(room)

    def _evaluate(self, room: int) -> None:
        if not self.synced:
            return  # once it is, all waits are evaluated
        status = self._statuses.get(room)
        for waiter in self.waiters[room]:
            if waiter.armed and (status is None or status in waiter.goal):
                waiter.settle(RoomNotFoundError(room, "wait") if status is None else status)
