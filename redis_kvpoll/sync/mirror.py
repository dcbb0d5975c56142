"""The mirror for blocking code, and its threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import get_ident
from types import TracebackType
from typing import Self

from redis_kvpoll._fork import forkable
from redis_kvpoll.errors import InvalidInputError, RoomNotFoundError, StoreUnavailableError
from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol import room_commands
from redis_kvpoll.replica.host import WaitTurns, arm_or_end
from redis_kvpoll.replica.mirror_base import MirrorBase
from redis_kvpoll.replica.replica import Replica
from redis_kvpoll.sync.dispatcher import Dispatcher
from redis_kvpoll.sync.follower import FollowerThread, Signal, ThreadTurn, stop_all
from redis_kvpoll.sync.waits import await_outcome, is_over, locked, poll, until


class Mirror(MirrorBase):
    """A local copy of the table, or of some of its rooms: polls at the speed of a dict, waits that wake.

    ``StatusStore.mirror`` makes one. It is a context manager: on entry it reads the table and starts a thread that
    follows the change feed over a connection of its own (on Redis Cluster a thread and a connection for each shard); on
    exit they end. Reads make no call: ``synced`` is True while they are current. While it is False (the server cannot
    be reached or was restarted, or the feed was trimmed before it was read), ``get`` returns the last known status, and
    the thread resyncs. Many threads may share a mirror. After ``fork``, the child starts its own at the first ``get``,
    ``poll`` or other read, or ``wait``: until then it is not synced, and calls no function of ``on_change``.

    A room that goes without a change in the feed (removed by hand, evicted, expired early) is found by a slow sweep of
    1,000 rooms per second: it is shown for rooms / 1,000 seconds, or for 5 s if that is longer.

    Its methods raise StoreClosedError before entry (but for ``on_change``) and after ``close``. Entry may raise what
    every call of the store may raise, and FeedOffError: the namespace was opened with feed_length=0.
    """

    def __init__(self, dispatcher: Dispatcher, rooms: Callable[[int], bool] | None, period: float | None) -> None:
        super().__init__(dispatcher.executor, rooms, period, ThreadTurn())
        self._dispatcher = dispatcher
        self._was_open = False
        """Whether it was open in the parent when this process was forked: then its first use opens it here."""
        self._threads: list[FollowerThread] = []
        self._starting = threading.RLock()
        self._beginning: int | None = None
        """The thread that reads the table."""
        self._progress = Signal()
        forkable.add(self)

    def wait(self, room: int, *statuses: KVPoll | int, timeout: float | None = None) -> KVPoll:
        """Wait until a room is at one of ``statuses`` (Success and Failed, if there are none) or further on.

        As ``StatusStore.wait``, but only a room that is not in this copy is read from the server first. While the
        mirror is not synced, its statuses end no wait.

        Raises:
            WaitTimeoutError: the room did not reach it within ``timeout`` seconds (a TimeoutError).
            RoomNotFoundError: the room is absent, or is removed before it reaches it (a KeyError).
        """
        room, goal, seconds = self._checked_wait(room, statuses, timeout)
        give_up_at, turns = until(seconds), WaitTurns(self, room, seconds)
        while True:
            try:
                return self._wait_once(lambda: self._read(room), room, goal, give_up_at, seconds)
            except (RoomNotFoundError, StoreUnavailableError) as error:
                self._dispatcher.run(turns.after(error, is_over(give_up_at)))

    def _read(self, room: int) -> KVPoll | None:
        return self._dispatcher.execute(room_commands.wait(room))

    def _wait_once(
        self,
        read: Callable[[], KVPoll | None],
        room: int,
        goal: frozenset[KVPoll],
        give_up_at: float | None,
        seconds: float | None,
    ) -> KVPoll:
        woken = locked()
        if self._open_replica("wait").is_interrupted:
            return poll(read, room, goal, give_up_at, seconds)
        replica, waiter = self._enter(room, goal, woken.release)
        try:
            if not waiter.armed and (status := arm_or_end(replica, waiter, read())) is not None:
                return status
            if waiter.outcome is None and any(thread.is_current for thread in self._threads):
                raise InvalidInputError("wait: a callback of this mirror would wait for itself: use the store's wait")
            return await_outcome(replica, waiter, woken, give_up_at, seconds)
        finally:
            try:
                replica.leave(waiter)
            except BaseException:  # an interrupt
                replica.leave(waiter)
                raise

    def close(self) -> None:
        """Stop following; waits end with StoreClosedError. May be repeated."""
        self._closed = True
        self._stop()

    def __enter__(self) -> Self:
        with self._starting:
            if self._closed or self._is_open or self._was_open:
                raise self._refuse_entry()
            self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_replica(self, operation: str) -> Replica:
        if self._was_open and not self._is_open and not self._closed:
            self._begin()
        replica = self._replica
        if replica is None or self._closed or not self._is_open:
            raise self._refuse(operation)
        return replica

    def _begin(self) -> None:
        """Read the table and follow it. Stops all threads on failure."""
        me = get_ident()
        if self._beginning == me:
            raise self._refuse("mirror")  # a signal handler or finalizer: it would wait for its own thread
        with self._starting:
            if self._is_open:
                return
            try:
                self._beginning = me
                self._follow()
            except BaseException:
                self._stop()
                raise
            finally:
                self._beginning = None

    def _follow(self) -> None:
        dispatcher = self._dispatcher
        context = dispatcher.run(self._executor.context("mirror"))
        self._prepare(context, threading.RLock(), dispatcher.transport)
        self._threads = [FollowerThread(dispatcher, one, context.namespace) for one in self._followers]
        for thread in self._threads:
            thread.start("mirror")
        while not self._has_begun():
            self._progress.wait()
        self._bind()

    def _progressed(self) -> None:
        self._progress.set()

    def _stop(self) -> None:
        self._unbind()
        self._progress.set()
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.end(self._refuse("wait"))  # before the threads are joined: their callbacks may be waiting
        threads, self._threads = self._threads, []
        stop_all(threads)

    def after_fork(self) -> None:
        """Reset in the child, where neither the threads nor their connections and locks are usable."""
        self._was_open = self._is_open or self._was_open
        self._unbind()
        self._replica, self._followers, self._threads, self._beginning = None, [], [], None
        self._listeners.turn = ThreadTurn()
        self._starting = threading.RLock()
        self._progress = Signal()
