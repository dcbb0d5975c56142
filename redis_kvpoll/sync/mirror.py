"""The mirror and the waits of blocking code."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from redis_kvpoll._fork import forkable
from redis_kvpoll.errors import InvalidInputError, RoomNotFoundError, StoreClosedError
from redis_kvpoll.model import KVPoll
from redis_kvpoll.replica.mirror_base import IDLE_TIMEOUT, MirrorBase, ReplicaHost, checked_wait, followed, groups
from redis_kvpoll.replica.replica import Replica
from redis_kvpoll.sync.dispatcher import Dispatcher
from redis_kvpoll.sync.follower import FollowerThread, await_outcome, locked, until


class Mirror(MirrorBase):
    """A local copy of the table, or of some of its rooms: polls at the speed of a dict, waits that wake.

    ``StatusStore.mirror`` makes one. It is a context manager: entering it reads the table and starts a thread that
    follows the change feed over a connection of its own (on Redis Cluster one of each for every shard); leaving it ends
    them. Reading it asks nobody: ``synced`` says whether what is read is current, and while it is not (the server
    cannot be reached, was restarted, or the feed was trimmed before it was read), ``get`` gives the last known status
    and the thread works on reading the table afresh. Many threads may share one. After ``fork``, the child begins one
    of its own at the first use.

    Its methods raise StoreClosedError before it is entered and after it was closed; entering it, besides what every
    call of the store may raise:
        FeedOffError: the namespace was opened with feed_length=0.
    """

    def __init__(self, dispatcher: Dispatcher, rooms: Callable[[int], bool] | None) -> None:
        super().__init__(dispatcher.executor, rooms)
        self._dispatcher = dispatcher
        self._transport = dispatcher.transport
        self._entered = False
        self._is_open = False
        self._threads: list[FollowerThread] = []
        self._starting = threading.RLock()
        self._news = threading.Event()
        forkable.add(self)

    def wait(self, room: int, *statuses: KVPoll | int, timeout: float | None = None) -> KVPoll:
        """Wait until a room is at one of ``statuses`` (Success and Failed, if there are none) or further on.

        As ``StatusStore.wait``, but a room that this copy does not hold is taken to be absent, though another process
        may have made it a moment ago. While the mirror is not synced, nobody is woken by what may be old.

        Raises:
            WaitTimeoutError: it did not get there within ``timeout`` seconds (a TimeoutError).
            RoomNotFoundError: the room is absent, or is gone before it got there (a KeyError).
        """
        woken = locked()
        replica, waiter, seconds = self._enter(room, statuses, timeout, woken.release)
        try:
            if waiter.outcome is None and any(thread.is_current for thread in self._threads):
                raise InvalidInputError("wait: a callback of this mirror would wait for itself: use the store's wait")
            return await_outcome(replica, waiter, woken, until(seconds), seconds)
        finally:
            replica.leave(waiter)

    def close(self) -> None:
        """Stop following; who waits gets StoreClosedError. May be repeated."""
        self._closed = True
        self._stop()

    def __enter__(self) -> Self:
        if self._closed:
            raise self._refuse("mirror")
        self._entered = True
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_replica(self, operation: str) -> Replica:
        if self._closed or not self._entered:
            raise self._refuse(operation)
        replica = self._replica
        if replica is None or not self._is_open:  # in a child of fork, at the first use
            self._begin()
            replica = self._replica
            if replica is None:
                raise self._refuse(operation)
        return replica

    def _begin(self) -> None:
        """Read the table and follow it. When that fails, nothing is left behind."""
        with self._starting:
            if self._is_open:
                return
            context = self._dispatcher.run(self._executor.context("mirror"))
            self._prepare(context, threading.Lock(), self._transport, may_end=lambda: False)
            self._threads = [FollowerThread(self._transport, one, context.namespace) for one in self._followers]
            try:
                self._await_first_sync()
            except BaseException:
                self._stop()
                raise
            self._is_open = True
            self._bind()

    def _await_first_sync(self) -> None:
        while not self._has_begun():
            self._news.wait()
            self._news.clear()

    def _has_news(self) -> None:
        self._news.set()

    def _stop(self) -> None:
        self._unbind()
        self._is_open = False
        self._news.set()
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.end(self._refuse("wait"))  # first, since a callback may be among those who wait
        threads, self._threads = self._threads, []
        for thread in threads:
            thread.stop()

    def after_fork(self) -> None:
        """In the child: the threads are the parent's, and so is all that they hold."""
        self._unbind()
        self._replica, self._followers, self._threads = None, [], []
        self._is_open = False
        self._starting = threading.RLock()
        self._news = threading.Event()


class WaitRegistry(ReplicaHost):
    """Who waits for rooms of a store, with what wakes them: a thread that follows the feed while there is anybody."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__(dispatcher.executor)
        self._dispatcher = dispatcher
        self._transport = dispatcher.transport
        self._lock = threading.Lock()
        self._threads: dict[str, FollowerThread] = {}
        self._quiet_since = 0.0
        forkable.add(self)

    def wait(
        self, read: Callable[[], KVPoll | None], room: int, statuses: tuple[KVPoll | int, ...], timeout: float | None
    ) -> KVPoll:
        """Subscribe, ``read`` the room, then sleep: so no change is missed."""
        room, goal, seconds = checked_wait(room, statuses, timeout)
        give_up_at, woken = until(seconds), locked()
        replica = self._replica_for_waits()
        waiter = replica.enter(room, goal, woken.release, armed=False)
        try:
            self._see_to_thread(replica, waiter.tag)
            status = read()
            if status is None:
                raise RoomNotFoundError(room, "wait")
            if status in goal:
                return status
            replica.arm(waiter)
            return await_outcome(replica, waiter, woken, give_up_at, seconds)
        finally:
            replica.leave(waiter)
            self._quiet_since = time.monotonic()

    def close(self) -> None:
        """Stop following; who waits gets StoreClosedError. May be repeated."""
        self._executor.remove_observer(self)
        with self._lock:
            threads, self._threads = self._threads, {}
        for thread in set(threads.values()):
            thread.stop()
        if self._replica is not None:
            self._replica.end(StoreClosedError("wait: the store was closed"))

    def _replica_for_waits(self) -> Replica:
        if self._replica is None:
            context = followed(self._dispatcher.run(self._executor.context("wait")), "wait")
            with self._lock:
                if self._replica is None:
                    self._replica = Replica(context, threading.Lock())
                    self._executor.add_observer(self)
        return self._replica

    def _see_to_thread(self, replica: Replica, tag: str) -> None:
        """There is a thread that follows the shard. It goes when it has long been without waiters."""
        if tag in self._threads:
            return
        with self._lock:
            if tag in self._threads:
                return
            self._executor.check_open("wait")  # once more: the store says that it is closed before it ends its threads
            tags = next(group for group in groups(replica.context, self._transport.clustered) if tag in group)
            follower = self._follower(replica, tags, self._transport, lambda: self._may_end(replica, tags))
            thread = FollowerThread(self._transport, follower, replica.context.namespace)
            self._threads |= dict.fromkeys(tags, thread)

    def _may_end(self, replica: Replica, tags: list[str]) -> bool:
        if any(replica.shards[tag].waiters for tag in tags) or time.monotonic() - self._quiet_since < IDLE_TIMEOUT:
            return False
        with self._lock:
            # Whoever comes enters first, and then looks for the thread, without the lock. So it is taken away before
            # the second look at who is there: either none is found, or the newcomer is.
            threads = self._threads
            self._threads = {tag: thread for tag, thread in threads.items() if tag not in tags}
            if any(replica.shards[tag].waiters for tag in tags):
                self._threads = threads
                return False
            replica.mark_unsynced(tags)
            return True

    def after_fork(self) -> None:
        """In the child: without a thread; the next to wait starts one."""
        self._executor.remove_observer(self)
        self._replica, self._threads = None, {}
        self._lock = threading.Lock()
