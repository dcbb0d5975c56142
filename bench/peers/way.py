"""What every way to share the table offers, and the rule that all of them follow."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from multiprocessing.managers import DictProxy
from multiprocessing.synchronize import Lock
from typing import ClassVar, NamedTuple

POLL_SECONDS = 0.001
GIVE_UP_SECONDS = 10.0


class Shared(NamedTuple):
    """What the processes have in common, and which of them this one is."""

    url: str
    """Our server."""
    namespace: str
    table: DictProxy[int, int]
    """Of a multiprocessing.Manager."""
    address: str
    """Of the way's own service; empty when it has none."""
    ports: list[int]
    """On loopback, one a process; for those that talk to each other."""
    processes: int
    number: int
    lock: Lock | None = None
    """For the Manager's table."""


class Way:
    """One process's end. A merge says whether it created the room, a clear whether it was there."""

    shown: ClassVar[str]
    service: ClassVar[str] = ""
    """What must run for it (see services)."""
    learns: ClassVar[str] = "asks every 1 ms"
    """How a process learns of another's change."""
    lacks: ClassVar[str]
    """What people must add, or do without."""

    @classmethod
    def set_up(cls, address: str) -> None:
        """Once, before any process comes: what the way's service must hold."""

    def __init__(self, shared: Shared) -> None:
        raise NotImplementedError

    def merge(self, room: int, status: int) -> bool:
        raise NotImplementedError

    def clear(self, room: int) -> bool:
        raise NotImplementedError

    def read(self, rooms: Sequence[int]) -> list[int | None]:
        """All statuses, the fastest way there is."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of connections and sockets."""

    def settle(self) -> None:
        """After the last call of all processes: take in what is still on its way."""

    def announce(self, room: int, status: int) -> None:
        """Merge, and tell those that listen: more than a merge where a merge alone tells nobody."""
        self.merge(room, status)

    def listen(self, rooms: Sequence[int]) -> None:
        """Begin to listen for changes of these rooms; those before do not count."""

    def until(self, room: int, status: int) -> None:
        """Return as soon as this process knows that the room has the status."""
        wait_until(lambda: self.read([room]) == [status])


def wait_until(reached: Callable[[], bool], seconds: float = GIVE_UP_SECONDS) -> None:
    """Ask every millisecond."""
    give_up_at = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > give_up_at:
            raise TimeoutError("nothing came")
        time.sleep(POLL_SECONDS)


def merged(current: int | None, incoming: int) -> int | None:
    """The rule (compat), in the process."""
    if incoming == 0:
        return None if current is None else 0
    return incoming if current is None else max(current, incoming)
