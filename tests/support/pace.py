"""Times at the speed of this machine, which may be slow, or busy with other things.

On an idle machine a second here is a second. On a slower one it is longer, so that no result depends on the speed.

A test waits for an event, at most for so many ``turns`` (as ``real.until`` does), in asyncio for ``patience(n)``. A
time limit that it gives to the code is ``seconds(n)``. An upper bound on the time that something took is in the seconds
of a ``Stopwatch``. Where times must fit together, an attempt may be ``undisturbed``.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median
from typing import Self, TypeVar

T = TypeVar("T")

AT_REST = 0.013
"""Seconds that ``_work`` takes on the slowest machine that counts as at rest: twice what it takes alone on a CPU of
2024, as other tests run beside it."""
MAX_FACTOR = 20.0
FRESH_SECONDS = 5.0
"""How long a measurement is valid."""
TURN = 0.01
"""Seconds between two checks of a condition."""
STANDSTILL = 0.2
"""Seconds for which no thread has run: what a test has timed meanwhile says nothing."""
ATTEMPTS = 5

_measured: dict[str, float] = {}
_longest_wait = [math.inf]


def seconds(n: float) -> float:
    """``n`` seconds on a machine at rest, longer on a slower one: for deadlines, TTLs and heartbeats."""
    return float(f"{n * factor():.3g}")


def milliseconds(n: float) -> str:
    """The same for a server's options, which are in milliseconds."""
    return f"{1000 * seconds(n):.0f}"


def factor() -> float:
    """How many times slower this machine is: the most of when this was first asked for and of the last seconds.

    The environment variable TEST_PACE sets it.
    """
    if given := os.environ.get("TEST_PACE"):
        return max(1.0, float(given))
    if not _measured:
        _measured["first"] = _measure(10)
    elif time.monotonic() > _measured["at"] + FRESH_SECONDS:
        _measured["last"] = _measure(3)
    return max(_measured["first"], _measured.get("last", 1.0))


def patience(n: float) -> float:
    """``seconds(n)``, to wait for an event; less where a test is to fail: see ``waiting_at_most``."""
    return min(seconds(n), _longest_wait[0])


@contextlib.contextmanager
def waiting_at_most(n: float) -> Iterator[None]:
    """Let each wait for an event end after ``n`` seconds: for a test that would wait long for what never comes."""
    before, _longest_wait[0] = _longest_wait[0], n
    try:
        yield
    finally:
        _longest_wait[0] = before


def turns(n: float) -> Iterator[None]:
    """Let ``n`` seconds go by in turns, which a slow machine makes longer; it is over after ten times ``n`` anyway."""
    n = min(n, _longest_wait[0])
    end = time.monotonic() + 10 * n
    for _ in range(max(1, round(n / TURN))):
        yield
        if time.monotonic() > end:
            return
        time.sleep(TURN)
    yield


class Stopwatch:
    """Counts the seconds that go by while its block runs: turns of a thread, which a busy machine makes longer."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.longest_turn = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._count, name="the test's stopwatch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _count(self) -> None:
        began = time.monotonic()
        while True:
            is_over = self._over.wait(TURN)
            ended = time.monotonic()
            self.longest_turn, began = max(self.longest_turn, ended - began), ended
            if is_over:
                return
            self.seconds += TURN


def undisturbed(attempt: Callable[[], T]) -> T:
    """Return what an attempt returns. One that fails is made again if the machine stood still during it."""
    for _ in range(ATTEMPTS - 1):
        watch = Stopwatch()
        try:
            with watch:
                return attempt()
        except Exception:
            if watch.longest_turn < STANDSTILL:
                raise
    return attempt()


def _measure(pieces: int) -> float:
    """The factor by the median of the pieces: a machine that stands still for a moment does so in one of them."""
    times = [time.monotonic()]
    for _ in range(pieces):
        _work()
        times.append(time.monotonic())
    _measured["at"] = times[-1]
    return min(MAX_FACTOR, max(1.0, median(later - sooner for sooner, later in pairwise(times)) / AT_REST))


def _work() -> int:
    total = 0
    for number in range(200_000):
        total += number % 7
    return total
