"""Statistics for blocking code, and their thread."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Self

from redis_kvpoll import validation
from redis_kvpoll._fork import forkable
from redis_kvpoll.statistics.base import StatisticsBase
from redis_kvpoll.statistics.model import Snapshot
from redis_kvpoll.sync.dispatcher import Dispatcher
from redis_kvpoll.sync.follower import FollowerThread, Signal


class Statistics(StatisticsBase):
    """Aggregates of the whole table, current to a second or two: what ``kvpoll stats`` and ``kvpoll serve`` show.

    ``StatusStore.statistics`` makes one. It is a context manager: on entry it starts a thread that reads the table once
    and then the change feed once a second, over a connection of its own; on exit that ends. It writes nothing. It is
    there at once, also when the server is away: ``snapshot().synced`` says whether all rooms are known. After a gap in
    the feed or a loss of data the thread reads the table anew, and what was counted goes on. In a child of ``fork`` it
    is closed.

    A room that goes without a change in the feed (removed by hand, evicted) is counted until its TTL ends. Its methods
    raise StoreClosedError before entry and after ``close``.
    """

    def __init__(self, dispatcher: Dispatcher, stuck_after: Any, lookback: Any, share: Any) -> None:
        super().__init__(dispatcher.executor, stuck_after, lookback, share)
        self._dispatcher = dispatcher
        self._thread: FollowerThread | None = None
        self._progress = Signal()
        forkable.add(self)

    def wait_synced(self, timeout: float | None = None) -> Snapshot:
        """Wait until all rooms are known, and return the snapshot of that moment.

        Raises:
            StoreUnavailableError: the table was not read within ``timeout`` seconds, or the server does not answer.
        """
        seconds = validation.timeout(timeout)
        give_up_at = None if seconds is None else time.monotonic() + seconds
        while (snapshot := self._first_sync()) is None:
            if seconds is not None and give_up_at is not None and time.monotonic() >= give_up_at:
                raise self._timed_out(seconds)
            self._progress.wait(0.1)
        return snapshot

    def close(self) -> None:
        """Stop reading. May be repeated."""
        self._closed = True
        thread, self._thread, self._follower = self._thread, None, None
        if thread is not None:
            thread.stop()

    def __enter__(self) -> Self:
        if self._closed or self._thread is not None:
            raise self._refuse_entry()
        try:
            follower = self._prepare(threading.RLock(), self._dispatcher.transport)
            self._thread = FollowerThread(self._dispatcher, follower, self._executor.namespace)
            self._thread.start("statistics")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _progressed(self) -> None:
        self._progress.set()

    def after_fork(self) -> None:
        """Reset in the child, where the thread does not run."""
        self._closed, self._thread, self._follower = True, None, None
