"""Times of the machine's monotonic clock, by which processes start together and time each other's changes."""

from __future__ import annotations

import time
from collections.abc import Callable

MARGIN = 0.02
"""Seconds from sending a command to the moment at which it is to run."""
POLL_SECONDS = 0.0001
"""Between checks for another process's change."""
TIMEOUT_SECONDS = 20.0


def soon() -> float:
    """Return a moment that is still to come when the command with it arrives."""
    return time.monotonic() + MARGIN


def wait_for(moment: float) -> None:
    """Return at that moment; at once if it has passed, as on a machine that is busy with something else."""
    time.sleep(max(0.0, moment - time.monotonic()))


def wait_until_seen(has_come: Callable[[], bool]) -> float:
    """Check until it has come; return when that was."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not has_come():
        if time.monotonic() > deadline:
            raise TimeoutError("another process's change is not seen")
        time.sleep(POLL_SECONDS)
    return time.monotonic()
