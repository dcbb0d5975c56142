"""Moments of the machine's one monotonic clock, by which processes begin together and see each other's changes."""

from __future__ import annotations

import time
from collections.abc import Callable

MARGIN = 0.02
"""Seconds from telling processes what to do to the moment at which they do it."""
LOOK_SECONDS = 0.0001
"""Between looks for another process's change."""
PATIENCE = 20.0


def soon() -> float:
    """A moment that all processes hear of before it comes."""
    return time.monotonic() + MARGIN


def wait_for(moment: float) -> None:
    """Return at that moment; at once if it has passed, as on a machine that is busy with something else."""
    time.sleep(max(0.0, moment - time.monotonic()))


def seen(has_come: Callable[[], bool]) -> float:
    """Look until it has come; when that was."""
    give_up_at = time.monotonic() + PATIENCE
    while not has_come():
        if time.monotonic() > give_up_at:
            raise TimeoutError("another process's change is not seen")
        time.sleep(LOOK_SECONDS)
    return time.monotonic()
