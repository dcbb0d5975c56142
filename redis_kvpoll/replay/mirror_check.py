"""A mirror of each table, beside the workers: four times a second its statuses are compared with the table's own.

A difference breaks no promise: a room may change between the two. The report counts them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from contextlib import ExitStack

from redis_kvpoll.replay.fault_plan import SIDES
from redis_kvpoll.replay.messages import Measured, Plan
from redis_kvpoll.replay.side_table import Meter, open_store
from redis_kvpoll.sync.mirror import Mirror
from redis_kvpoll.sync.store import StatusStore

COMPARE_SECONDS = 0.25
ROOMS = 256
"""How many rooms are compared at once: the router has other work."""


class MirrorCheck:
    """Mirrors of both tables, and how they compare with calls."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._opened = ExitStack()
        self._tables: list[tuple[StatusStore, Mirror]] = []
        self._meter = Meter()
        self._compare_at = 0.0

    def start(self) -> None:
        stores = [self._opened.enter_context(open_store(self._plan, side)) for side in SIDES]
        self._tables = [(store, self._opened.enter_context(store.mirror())) for store in stores]

    def compare(self, running: Iterable[int], now: float) -> None:
        """Poll some of the running rooms from the mirrors, and then from the tables, if it is time to."""
        rooms = list(itertools.islice(running, ROOMS))
        if now < self._compare_at or not rooms:
            return
        self._compare_at = now + COMPARE_SECONDS
        for store, mirror in self._tables:
            with self._meter.mirror_poll():
                mirrored = mirror.poll(rooms)
                synced = mirror.synced
            with self._meter.poll(len(rooms)):
                polled = store.poll(rooms)
            self._meter.compare(mirrored, polled, synced)

    def take(self) -> Measured:
        """The measurements since the last call of this."""
        return self._meter.take()

    def close(self) -> None:
        self._opened.close()
