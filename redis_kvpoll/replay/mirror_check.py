"""A mirror of each table, in a process that has nothing else to do: its statuses are compared with the table's own.

A difference breaks no promise: a room may change between the two. The report counts them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from redis_kvpoll.replay.fault_plan import SIDES
from redis_kvpoll.replay.messages import Plan
from redis_kvpoll.replay.report import Latency, Report
from redis_kvpoll.replay.side_table import open_store
from redis_kvpoll.sync.mirror import Mirror
from redis_kvpoll.sync.store import StatusStore

logger = logging.getLogger("redis_kvpoll")


class MirrorCheck:
    """Mirrors of both tables, and how they compare with calls. A context manager."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._opened = ExitStack()
        self._tables: list[tuple[StatusStore, Mirror]] = []
        self._polls: list[float] = []
        self._rooms = self._behind = self._unsynced = 0

    def compare(self, rooms: Sequence[int]) -> None:
        """Poll rooms from the mirrors, and then from the tables."""
        for store, mirror in self._tables if rooms else ():
            started = time.perf_counter()
            mirrored, synced = mirror.poll(rooms), mirror.synced
            self._polls.append(time.perf_counter() - started)
            self._unsynced += not synced
            self._rooms += len(rooms)
            if synced:
                self._behind += sum(one is not other for one, other in zip(mirrored, store.poll(rooms), strict=True))

    def add_to(self, report: Report) -> None:
        """Add the figures to a report."""
        report.mirror_polls, report.rooms_mirrored = Latency.of(self._polls), self._rooms
        report.mirror_behind, report.mirror_unsynced = self._behind, self._unsynced

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            # As in the workers: the replay counts unsynced mirrors, and may kill the server on purpose.
            opened.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
            stores = [opened.enter_context(open_store(self._plan, side)) for side in SIDES]
            self._tables = [(store, opened.enter_context(store.mirror())) for store in stores]
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()
