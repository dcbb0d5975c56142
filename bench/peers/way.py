"""The interface of every way to share the table, and the merge rule that all of them follow."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from multiprocessing.managers import DictProxy
from multiprocessing.synchronize import Lock
from typing import ClassVar, NamedTuple

POLL_SECONDS = 0.001
GIVE_UP_SECONDS = 10.0


class Shared(NamedTuple):
    """What the processes share, and the number of this one."""

    url: str
    """The Redis server."""
    namespace: str
    table: DictProxy[int, int]
    """The dict of a multiprocessing.Manager."""
    address: str
    """The address of the way's own service; empty if it has none."""
    ports: list[int]
    """A port on loopback for each process, for ways whose processes connect to each other."""
    processes: int
    number: int
    lock: Lock | None = None
    """The lock of the Manager's dict."""


class Way:
    """One process's access to the table. ``merge`` returns whether it created a room, ``clear`` whether one existed."""

    shown: ClassVar[str]
    service: ClassVar[str] = ""
    """The service that it needs (see ``bench.services``)."""
    learns: ClassVar[str] = "polls every 1 ms"
    """How a process learns of another process's change."""
    lacks: ClassVar[str]
    """What its users must add, or do without."""

    @classmethod
    def set_up(cls, address: str) -> None:
        """Prepare the way's service, once, before any process uses it."""

    def __init__(self, shared: Shared) -> None:
        raise NotImplementedError

    def merge(self, room: int, status: int) -> bool:
        raise NotImplementedError

    def clear(self, room: int) -> bool:
        raise NotImplementedError

    def read(self, rooms: Sequence[int]) -> list[int | None]:
        """All statuses, by the fastest call."""
        raise NotImplementedError

    def close(self) -> None:
        """Close connections and sockets."""

    def settle(self) -> None:
        """Apply what is still on its way, after the last call of all processes."""

    def announce(self, room: int, status: int) -> None:
        """Merge and notify listeners; for ways whose merge alone notifies none."""
        self.merge(room, status)

    def listen(self, rooms: Sequence[int]) -> None:
        """Start to listen for changes of these rooms from now on."""

    def until(self, room: int, status: int) -> None:
        """Return as soon as this process knows that the room has the status."""
        wait_until(lambda: self.read([room]) == [status])


def wait_until(reached: Callable[[], bool], seconds: float = GIVE_UP_SECONDS) -> None:
    """Poll every millisecond until a condition holds."""
    give_up_at = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > give_up_at:
            raise TimeoutError("nothing arrived")
        time.sleep(POLL_SECONDS)


def merged(current: int | None, incoming: int) -> int | None:
    """The merge rule of policy compat, in the process."""
    if incoming == 0:
        return None if current is None else 0
    return incoming if current is None else max(current, incoming)
