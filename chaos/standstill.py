"""Notices that the machine itself stood still: calls were late then, and no fault of a scenario explains it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

from chaos.history import FaultEvent

TURN = 0.05
LONGEST = 1.0
"""Seconds between two turns of a machine that is busy, and does not stand still."""


class Standstills:
    """Collects in ``events`` when the machine stood still, while its block runs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.events: list[FaultEvent] = []
        self._clock = clock
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="chaos-standstills", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        before = self._clock()
        while not self._over.wait(TURN):
            now = self._clock()
            if now - before > LONGEST:
                self.events.append(FaultEvent("the machine stood still", before, now, outage=True))
            before = now
