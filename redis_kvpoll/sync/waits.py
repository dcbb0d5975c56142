"""The waits of a store for blocking code."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any

from redis_kvpoll._fork import forkable
from redis_kvpoll.errors import RoomNotFoundError, StoreClosedError, StoreUnavailableError, WaitTimeoutError
from redis_kvpoll.model import KVPoll
from redis_kvpoll.replica.host import IDLE_TIMEOUT, ReplicaHost, WaitTurns, arm_or_end, checked_wait, followed, groups
from redis_kvpoll.replica.replica import Replica
from redis_kvpoll.replica.waiter import Waiter
from redis_kvpoll.sync.dispatcher import Dispatcher
from redis_kvpoll.sync.follower import FollowerThread, stop_all

POLL_INTERVAL = 0.01
"""Seconds between the reads of a wait that no follower can serve."""


def await_outcome(replica: Replica, waiter: Waiter, woken: Any, until: float | None, seconds: float | None) -> KVPoll:
    """Sleep until the waiter is woken, or until a time, which is ``seconds`` after the call began."""
    woken.acquire(timeout=-1 if until is None else max(0.0, until - time.monotonic()))
    return replica.result(waiter, seconds)


def poll(
    read: Callable[[], KVPoll | None],
    room: int,
    goal: frozenset[KVPoll],
    give_up_at: float | None,
    seconds: float | None,
) -> KVPoll:
    """Wait by reading the server again and again; after the first read, an outage only prolongs it.

    For a signal handler or finalizer that interrupts its thread where the follower waits for that thread.
    """
    status = read()
    while status is not None and status not in goal:
        if is_over(give_up_at):
            raise WaitTimeoutError(room, status, seconds or 0.0)
        time.sleep(POLL_INTERVAL)
        with contextlib.suppress(StoreUnavailableError):
            status = read()
    if status is None:
        raise RoomNotFoundError(room, "wait")
    return status


def locked() -> Any:
    lock = threading.Lock()
    lock.acquire()
    return lock


def until(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def is_over(give_up_at: float | None) -> bool:
    return give_up_at is not None and time.monotonic() >= give_up_at


class WaitRegistry(ReplicaHost):
    """The waits of a store, and the thread that follows the feed for all of them.

    Invariant: a waiter enters before its room is read, and the feed is followed until it leaves: no change is missed.
    A signal handler or finalizer may wait at any point of its thread.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__(dispatcher.executor)
        self._dispatcher = dispatcher
        self._lock = threading.RLock()
        self._threads: dict[str, FollowerThread] = {}
        """By the first shard of each."""
        self._starting: set[int] = set()
        """The threads that start one."""
        self._last_wait_at = 0.0
        forkable.add(self)

    def wait(
        self, read: Callable[[], KVPoll | None], room: int, statuses: tuple[KVPoll | int, ...], timeout: float | None
    ) -> KVPoll:
        """Wait for a room: subscribe, ``read`` it, then sleep."""
        room, goal, seconds = checked_wait(room, statuses, timeout)
        give_up_at, turns = until(seconds), WaitTurns(self, room, seconds)
        while True:
            try:
                return self._wait_once(read, room, goal, give_up_at, seconds)
            except (RoomNotFoundError, StoreUnavailableError) as error:
                self._dispatcher.run(turns.after(error, is_over(give_up_at)))

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
        if replica.is_interrupted or get_ident() in self._starting or self._is_follower:
            return poll(read, room, goal, give_up_at, seconds)
        waiter = replica.enter(room, goal, woken.release, armed=False)
        try:
            self._ensure_thread(replica, waiter.tag)
            if (status := arm_or_end(replica, waiter, read())) is not None:
                return status
            return await_outcome(replica, waiter, woken, give_up_at, seconds)
        finally:
            try:
                replica.leave(waiter)
            except BaseException:  # an interrupt
                replica.leave(waiter)
                raise
            self._last_wait_at = time.monotonic()

    def close(self) -> None:
        """Stop following; waits end with StoreClosedError. May be repeated."""
        self._executor.session.remove_observer(self)
        threads, self._threads = self._threads, {}
        stop_all([*threads.values()])
        if self._replica is not None:
            self._replica.end(StoreClosedError("wait: the store was closed"))

    def _replica_for_waits(self) -> Replica:
        if self._replica is None:
            context = followed(self._dispatcher.run(self._executor.context("wait")), "wait")
            replica = Replica(context, threading.RLock())
            with self._lock:
                self._executor.session.add_observer(self)
                if self._replica is None:  # no interrupt comes between this and the next line
                    self._replica = replica
        return self._replica

    @property
    def _is_follower(self) -> bool:
        """Whether the caller runs in a thread that follows the feed for waits: in a finalizer."""
        return any(thread.is_current for thread in list(self._threads.values()))

    def _ensure_thread(self, replica: Replica, tag: str) -> None:
        """Start the thread that follows the shard, unless it runs. It ends some time after the last wait."""
        transport, me = self._dispatcher.transport, get_ident()
        if (tag if transport.clustered else replica.first_tag) in self._threads:
            return
        session = self._executor.session
        session.check_open("wait")
        tags = next(group for group in groups(replica.context, transport.clustered) if tag in group)
        follower = self._follower(replica, tags, transport)
        thread = FollowerThread(self._dispatcher, follower, replica.context.namespace)
        self._starting.add(me)
        try:
            if self._threads.setdefault(tags[0], thread) is thread:
                thread.start("wait")
        except BaseException:
            self._threads.pop(tags[0], None)
            raise
        finally:
            self._starting.discard(me)
        if session.closed:  # a store is marked as closed before its threads are stopped: maybe without this one
            thread.stop()
            session.check_open("wait")

    def _may_end(self, replica: Replica, tags: Sequence[str]) -> bool:
        if self._is_needed(replica, tags):
            return False
        replica.mark_unsynced(tags)
        self._threads.pop(tags[0], None)
        # A waiter enters, and then checks for the thread. So either it is found here, or it has found no thread.
        if any(replica.shards[tag].waiters for tag in tags) and not self._executor.session.closed:
            self._ensure_thread(replica, tags[0])
        return True

    def _is_needed(self, replica: Replica, tags: Sequence[str]) -> bool:
        has_waiters = any(replica.shards[tag].waiters for tag in tags)
        return has_waiters or time.monotonic() - self._last_wait_at < IDLE_TIMEOUT

    def after_fork(self) -> None:
        """Reset in the child, where no thread runs: the next wait starts one."""
        self._executor.session.remove_observer(self)
        self._replica, self._threads, self._starting = None, {}, set()
        self._lock = threading.RLock()
