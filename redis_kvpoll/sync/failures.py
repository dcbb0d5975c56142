"""The follower of failures for blocking code, and its threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from redis_kvpoll._fork import forkable
from redis_kvpoll.replica.failures_base import FailuresBase
from redis_kvpoll.sync.dispatcher import Dispatcher
from redis_kvpoll.sync.follower import FollowerThread, Signal, ThreadTurn, stop_all


class Failures(FailuresBase):
    """What becomes Failed of the rooms that a process holds, told at once, without a copy of the table.

    ``StatusStore.failures`` makes one. It is a context manager: on entry it reads those rooms and starts a thread that
    follows the stream of failures over a connection of its own (on Redis Cluster one for each shard); on exit they end.
    It costs the server nothing for changes that are no failures. After an outage it reads on where it was; if the
    server has lost that place, it reads the held rooms, and takes an absent one for unknown. In a child of ``fork`` it
    is closed.

    Entry may raise what every call of the store may raise, and:
        FeedOffError: the namespace was opened with feed_length=0.
    """

    def __init__(self, dispatcher: Dispatcher, rooms: Callable[[], Iterable[int]]) -> None:
        super().__init__(dispatcher.executor, rooms, ThreadTurn())
        self._dispatcher = dispatcher
        self._threads: list[FollowerThread] = []
        self._progress = Signal()
        forkable.add(self)

    def close(self) -> None:
        """Stop following. May be repeated."""
        self._closed = True
        self._executor.session.remove_observer(self)
        self._progress.set()
        threads, self._threads = self._threads, []
        stop_all(threads)

    def __enter__(self) -> Self:
        if self._closed or self._log is not None:
            raise self._refuse_entry()
        context = self._dispatcher.run(self._executor.context("failures"))
        self._prepare(context, threading.RLock(), self._dispatcher.transport)
        try:
            self._threads = [FollowerThread(self._dispatcher, one, context.namespace) for one in self._followers]
            for thread in self._threads:
                thread.start("failures")
            while not self._has_begun():
                self._progress.wait()
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
        """Close it in the child, where the threads do not run."""
        self._closed = True
        self._executor.session.remove_observer(self)
        self._threads = []
