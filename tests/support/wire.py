"""The wire between a store and its server: its delay, its cuts, what goes over it, and who calls over it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from chaos.proxy import Command, Proxy

PATIENCE = 300
"""Seconds; a caller that takes longer has hung."""


@contextlib.contextmanager
def cutting(proxy: Proxy, every: float) -> Iterator[None]:
    """Cut all connections for an instant, again and again, each time after so many seconds."""
    over = threading.Event()

    def cut() -> None:
        while not over.wait(every):
            proxy.cut()

    thread = threading.Thread(target=cut, name="the test's cutter")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def verifications(proxy: Proxy) -> list[Command]:
    """The commands that went over the wire to verify settings or data, or to replay rooms."""
    found = [command for command in list(proxy.commands) if command[0] == b"HGET" and command[2:] == [b"epoch"]]
    scripts = proxy.calls("settings") + proxy.calls("replay")
    return found + [[b"EVALSHA"]] * scripts


@dataclass
class Tally:
    """What callers met: how many of their calls succeeded, and the errors of the others."""

    calls: int = 0
    errors: list[Exception] = field(default_factory=list)

    def count(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            self.errors.append(error)
        else:
            self.calls += 1


def crowd(callers: list[Callable[[], Any]], seconds: float) -> list[Tally]:
    """Let each caller call again and again, in a thread of its own, for so many seconds. Returns a tally for each."""
    end = time.monotonic() + seconds

    def repeat(call: Callable[[], Any]) -> Tally:
        tally = Tally()
        while time.monotonic() < end:
            tally.count(call)
        return tally

    with ThreadPoolExecutor(len(callers)) as pool:
        return [found.result(PATIENCE) for found in [pool.submit(repeat, call) for call in callers]]


def total(tallies: list[Tally]) -> Tally:
    return Tally(sum(tally.calls for tally in tallies), [error for tally in tallies for error in tally.errors])
