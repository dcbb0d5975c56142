"""The wait of SGLang's threads for another rank's reason: bounded in time, and in its share of a thread's."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Container

from redis_kvpoll.integrations.sglang.changes import Changes

MAX_WAIT_FRACTION = 0.1
"""The greatest share of its time that SGLang's thread may wait for other ranks' reasons."""


class ReasonWait:
    """``on_waiting`` is called with a room for whose reason a thread begins or ends to wait, as a change."""

    def __init__(self, changes: Changes, clock: Callable[[], float]) -> None:
        self.longest = 0.0
        """The longest wait in seconds; 0 while no other rank can give a reason."""
        self.rooms: set[int] = set()
        """The rooms for whose reason a thread waits."""
        self.on_waiting: Callable[[int, bool], object] = lambda room, is_waiting: None
        self._changes = changes
        self._clock = clock
        self._budget = WaitBudget(clock)
        self._recorded = threading.Condition(changes.lock)

    def wait(self, room: int, reasons: Container[int]) -> None:
        """Return once there is a reason for a room, or none has come in time."""
        with self._changes.lock:
            if self._changes.is_changing:
                return  # by this thread, which must let no other in between
            began, longest = self._clock(), self._budget.seconds(self.longest)
            self.rooms.add(room)
            self._tell(room, True)
            self._recorded.wait_for(lambda: room in reasons, longest)
            self.rooms.discard(room)
            self._tell(room, False)
            self._budget.spend(self._clock() - began)

    def recorded(self) -> None:
        """Wake the threads that wait, because there is a reason. The caller holds the lock."""
        self._recorded.notify_all()

    def _tell(self, room: int, is_waiting: bool) -> None:
        self._changes.do(lambda: self.on_waiting(room, is_waiting))


class WaitBudget:
    """Each second adds ``MAX_WAIT_FRACTION`` seconds to it, up to one longest wait.

    When a hundred rooms fail at once, SGLang reads one reason after the other.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = -math.inf
        """Since when unused waiting time has been saved up."""

    def seconds(self, longest: float) -> float:
        """Return how long a wait may be now."""
        now = self._clock()
        self._since = max(self._since, now - longest / MAX_WAIT_FRACTION)
        return (now - self._since) * MAX_WAIT_FRACTION

    def spend(self, seconds: float) -> None:
        """Take a wait from the budget."""
        self._since += seconds / MAX_WAIT_FRACTION
