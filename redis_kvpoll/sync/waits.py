"""The waits of a store for blocking code."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from redis_kvpoll._fork import forkable
from redis_kvpoll.errors import RoomNotFoundError, StoreClosedError
from redis_kvpoll.model import KVPoll
from redis_kvpoll.replica.mirror_base import IDLE_TIMEOUT, ReplicaHost, checked_wait, followed, groups
from redis_kvpoll.replica.replica import Replica
from redis_kvpoll.replica.shard import Waiter
from redis_kvpoll.sync.dispatcher import Dispatcher
from redis_kvpoll.sync.follower import FollowerThread


def await_outcome(replica: Replica, waiter: Waiter, woken: Any, until: float | None, seconds: float | None) -> KVPoll:
    """Sleep until the waiter is woken, or until a time, which is ``seconds`` after the call began."""
    woken.acquire(timeout=-1 if until is None else max(0.0, until - time.monotonic()))
    return replica.result(waiter, seconds)


def locked() -> Any:
    lock = threading.Lock()
    lock.acquire()
    return lock


def until(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


class WaitRegistry(ReplicaHost):
    """The waits of a store, and the thread that follows the feed for all of them.

    Invariant: a waiter enters before its room is read, and the feed is followed until it leaves: no change is missed.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__(dispatcher.executor)
        self._dispatcher = dispatcher
        self._transport = dispatcher.transport
        self._lock = threading.Lock()
        self._threads: dict[str, FollowerThread] = {}
        self._last_wait_at = 0.0
        forkable.add(self)

    def wait(
        self, read: Callable[[], KVPoll | None], room: int, statuses: tuple[KVPoll | int, ...], timeout: float | None
    ) -> KVPoll:
        """Wait for a room: subscribe, ``read`` it, then sleep."""
        room, goal, seconds = checked_wait(room, statuses, timeout)
        give_up_at = until(seconds)
        while True:
            try:
                return self._wait_once(read, room, goal, give_up_at, seconds)
            except RoomNotFoundError:
                if not self._dispatcher.run(self._is_held(room)):
                    raise

    def _wait_once(
        self,
        read: Callable[[], KVPoll | None],
        room: int,
        goal: frozenset[KVPoll],
        give_up_at: float | None,
        seconds: float | None,
    ) -> KVPoll:
        woken = locked()
        replica = self._replica_for_waits()
        waiter = replica.enter(room, goal, woken.release, armed=False)
        try:
            self._ensure_thread(replica, waiter.tag)
            status = read()
            if status is None:
                raise RoomNotFoundError(room, "wait")
            if status in goal:
                return status
            replica.arm(waiter)
            return await_outcome(replica, waiter, woken, give_up_at, seconds)
        finally:
            replica.leave(waiter)
            self._last_wait_at = time.monotonic()

    def close(self) -> None:
        """Stop following; waits end with StoreClosedError. May be repeated."""
        self._executor.session.remove_observer(self)
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
                    self._executor.session.add_observer(self)
        return self._replica

    def _ensure_thread(self, replica: Replica, tag: str) -> None:
        """Start the thread that follows the shard, unless it runs. It ends some time after the last wait."""
        if tag in self._threads:
            return
        with self._lock:
            if tag in self._threads:
                return
            self._executor.session.check_open(
                "wait"
            )  # again: a store is marked as closed before its threads are stopped
            tags = next(group for group in groups(replica.context, self._transport.clustered) if tag in group)
            follower = self._follower(replica, tags, self._transport, lambda: self._may_end(replica, tags))
            thread = FollowerThread(self._transport, follower, replica.context.namespace)
            self._threads |= dict.fromkeys(tags, thread)

    def _may_end(self, replica: Replica, tags: list[str]) -> bool:
        if any(replica.shards[tag].waiters for tag in tags) or time.monotonic() - self._last_wait_at < IDLE_TIMEOUT:
            return False
        with self._lock:
            # A new waiter enters, and then checks for the thread without the lock. So the thread is unlisted before
            # the waiters are checked again: either this finds the new waiter, or the waiter finds no thread.
            threads = self._threads
            self._threads = {tag: thread for tag, thread in threads.items() if tag not in tags}
            if any(replica.shards[tag].waiters for tag in tags):
                self._threads = threads
                return False
            replica.mark_unsynced(tags)
            return True

    def after_fork(self) -> None:
        """Reset in the child, where no thread runs: the next wait starts one."""
        self._executor.session.remove_observer(self)
        self._replica, self._threads = None, {}
        self._lock = threading.Lock()
