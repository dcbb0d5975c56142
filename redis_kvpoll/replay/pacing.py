"""How fast a host may be asked to work, and how long to wait for it. Pure.

Invariant: nothing here turns a slow host into a broken promise. A window bounds the requests in flight, as TCP's does,
and patience counts only time in which a process could run.
"""

from __future__ import annotations

import math

from redis_kvpoll.errors import ReplayError

TURN_SECONDS = 0.02
"""The most that one turn of a loop counts: several times what it takes on a host at rest."""
SILENT_SECONDS = 60.0
"""A worker that reports nothing for so long gets no CPU: with requests it reports fifty times a second."""

FIRST_WINDOW = 64
"""Requests in flight per worker at the start: more than traffic at its own speed has."""
LATE_SECONDS = 1.0
"""A request that takes so much longer than its computation and transfer is late; it times out after five seconds."""
GROWTH = 0.5
"""Added for each request that ends in time while the window is full: half as much again with each whole window."""
SLIP_SECONDS = 1.0
"""The replay may end so much later than planned, and a tenth, and still has its speed."""


class HostTooSlowError(ReplayError):
    """A replay did not complete, because its processes got too little CPU. It says nothing about the table."""

    def __init__(self, why: str, speed: float, carried: float) -> None:
        super().__init__(why, speed, carried)
        self.why, self.speed, self.carried = why, speed, carried

    def __str__(self) -> str:
        return f"{too_slow(self.speed, self.carried)} ({self.why})"


class Patience:
    """Waits for some seconds in which the caller could run; a turn that the host made long counts as a short one."""

    def __init__(self, seconds: float, now: float) -> None:
        self._left, self._now = seconds, now

    def is_over(self, now: float) -> bool:
        """Count the turn that ends now; returns whether the seconds are used up."""
        self._left -= min(now - self._now, TURN_SECONDS)
        self._now = now
        return self._left <= 0


class Window:
    """How many requests may be in flight. It grows while they end in time, and is halved when one is late."""

    def __init__(self, size: float) -> None:
        self.size = size
        self._round = 0  # one round halves it once, however many of its requests are late
        self._is_full = False
        self._due: dict[int, tuple[int, float]] = {}

    def admits(self, in_flight: int) -> bool:
        self._is_full = in_flight >= int(self.size)
        return not self._is_full

    def dispatched(self, request: int, duration: float, now: float) -> None:
        """A request that should take ``duration`` seconds was dispatched."""
        self._due[request] = self._round, now + duration + LATE_SECONDS

    def ended(self, request: int, result: str | None, now: float) -> None:
        """A request ended. Only one that nothing cut short says how fast the host is."""
        sent_in, due = self._due.pop(request)
        if result == "timed out" or (result == "success" and now > due):
            if sent_in == self._round:
                self._round += 1
                self.size = max(1.0, self.size / 2)
        elif result == "success" and self._is_full:
            self.size += GROWTH


def carried_speed(speed: float, span: float, seconds: float) -> float:
    """The speed that a host carried: that asked for, unless ``span`` seconds of the trace took much longer."""
    planned = span / speed
    return speed if seconds <= planned * 1.1 + SLIP_SECONDS else span / seconds


def too_slow(speed: float, carried: float) -> str:
    """The sentence for a host that is too slow, with a remedy."""
    return f"this machine is too slow for --speed {speed:g}; try --speed {slower_speed(speed, carried):g}"


def slower_speed(speed: float, carried: float) -> float:
    """A round speed to try instead: at most half of that asked for, and what the host carried."""
    most = min(speed / 2, carried) or speed / 2
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))
