"""The thread that runs a follower.

Invariant: the thread refers to the store's mirror or waits weakly, and to no connection of the store's.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any

from redis.exceptions import RedisError

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.replica.health import REJECTED_RETRY
from redis_kvpoll.replica.requests import AnyFollower, AskStore, FollowerEffect, FollowerFlow, OrphanedError
from redis_kvpoll.sync.dispatcher import Dispatcher, drive

TURN_PATIENCE = 0.25
"""Seconds that a thread waits for its turn to call the listeners; then it reads on. Whoever has the turn tells all."""
JOIN_TIMEOUT = 1.0
"""Seconds that ``stop`` waits for the thread. It may need a lock of the caller's, which a signal handler interrupts."""

logger = logging.getLogger("redis_kvpoll.mirror")


class Signal:
    """Wakes one thread. Unlike an Event, it may be set by a signal handler that interrupts its setting."""

    def __init__(self) -> None:
        self._wakeups: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        if self._wakeups.empty():  # one is enough, and maybe nobody waits
            self._wakeups.put(None)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it was set since the last wait, or ``seconds`` are over."""
        with contextlib.suppress(Empty):
            self._wakeups.get(timeout=seconds)


def start_thread(thread: threading.Thread, operation: str) -> None:
    """Start a thread that an operation needs; raise KVPollError if this process may have no more of them."""
    try:
        thread.start()
    except RuntimeError as error:
        remedy = "raise the limit of its threads (ulimit -u, the pids limit of its container), or use fewer"
        raise KVPollError(f"{operation}: this process can start no thread ({error}): {remedy}") from error


class ThreadTurn:
    """The turn of a thread to call the listeners that it shares with other threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def take(self) -> bool:
        return self._lock.acquire(timeout=TURN_PATIENCE)

    def give_back(self) -> None:
        self._lock.release()

    def may_be_interrupted(self) -> bool:
        return threading.current_thread() is threading.main_thread()  # no other thread gets Ctrl-C


class FollowerThread:
    """Runs the sessions of a follower one after the other, each over connections of its own."""

    def __init__(self, dispatcher: Dispatcher, follower: AnyFollower, namespace: str) -> None:
        self.follower = follower
        self._dispatcher = weakref.ref(dispatcher)
        self._clone = dispatcher.transport.clone()
        self._is_stopped = False
        self._stopping = Signal()
        self._thread = threading.Thread(target=self._run, name=f"kvpoll-follow-{namespace}", daemon=True)

    def start(self, operation: str) -> None:
        """Start the thread, for an operation that its error names."""
        start_thread(self._thread, operation)

    def stop(self) -> None:
        """Stop the thread, and wait for its end."""
        self.tell_to_stop()
        self.join()

    def tell_to_stop(self) -> None:
        self._is_stopped = True
        self._stopping.set()
        self._clone.cut()

    def join(self) -> None:
        """Wait for the end of the thread, unless it is the current one or has not started."""
        if self._thread.is_alive() and not self.is_current:
            self._thread.join(JOIN_TIMEOUT)

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in this thread, in a callback or finalizer."""
        return self._thread is threading.current_thread()

    def _run(self) -> None:
        while not self._is_stopped:
            pause: float | None
            try:
                pause = self._run_session()
            except BaseException as error:
                # No Ctrl-C comes in this thread: a function of the caller's (rooms=, a credential provider) has raised
                # this, be it SystemExit. If it ended the thread, all waits would go on without a word.
                logger.exception("a follower's session failed unexpectedly; the next begins in %g s", REJECTED_RETRY)
                pause = self.follower.health.failed_unexpectedly(error)
            if pause is None:
                return
            if not self._is_stopped:
                self._stopping.wait(pause)

    def _run_session(self) -> float | None:
        """Return the seconds to wait before the next session; None when there need not be one."""
        self._clone = clone = self._clone.clone()
        session = self.follower.session()
        try:
            return drive(self._until_stopped(session), clone.perform)
        finally:
            session.close()
            clone.close()

    def _until_stopped(self, session: FollowerFlow[float | None]) -> Flow[float | None]:
        """The session's effects on its own connections; none after ``stop``."""
        reply: Any = None
        error: BaseException | None = None
        while not self._is_stopped:
            try:
                effect: FollowerEffect = session.send(reply) if error is None else session.throw(error)
            except StopIteration as end:
                pause: float | None = end.value
                return pause
            reply, error = None, None
            try:
                reply = self._ask_store(effect) if isinstance(effect, AskStore) else (yield effect)
            except (NotSent, RedisError, OSError) as caught:
                error = caught
        return None

    def _ask_store(self, effect: AskStore) -> bool | KVPollError:
        if (dispatcher := self._dispatcher()) is None:
            return False
        try:
            return dispatcher.run(effect.host.ask_store(effect.room))
        except KVPollError as error:
            return error
        except OrphanedError:
            return False


def stop_all(threads: Sequence[FollowerThread]) -> None:
    """Stop threads. All are told before one is waited for: so they end at once, also if this is interrupted."""
    for thread in threads:
        thread.tell_to_stop()
    for thread in threads:
        thread.join()
