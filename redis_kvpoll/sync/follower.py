"""A thread for each follower, and how blocking code waits."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from redis.exceptions import RedisError

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.model import KVPoll
from redis_kvpoll.replica.follow import REJECTED_RETRY, Follower
from redis_kvpoll.replica.replica import Replica
from redis_kvpoll.replica.shard import Waiter
from redis_kvpoll.sync.dispatcher import drive
from redis_kvpoll.sync.transport import Transport

logger = logging.getLogger("redis_kvpoll.mirror")


class FollowerThread:
    """The thread that runs a follower, a session after another, each over connections of its own."""

    def __init__(self, transport: Transport, follower: Follower, namespace: str) -> None:
        self.follower = follower
        self._transport = transport
        self._twin: Transport | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"kvpoll-follow-{namespace}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and be gone when this returns; unless it is the thread itself that says so, in a callback."""
        self._stopping.set()
        if (twin := self._twin) is not None:
            twin.cut()
        if not self.is_current:
            self._thread.join()

    @property
    def is_current(self) -> bool:
        """Whether this is the thread that asks: in a callback."""
        return self._thread is threading.current_thread()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._twin = twin = self._transport.twin()
            session = self.follower.session()
            pause: float | None = REJECTED_RETRY
            try:
                pause = drive(self._until_stopped(session), twin.take)
            except Exception:
                logger.exception(
                    "a follower's session ended as it never should; the next begins in %g s", REJECTED_RETRY
                )
            finally:
                session.close()
                twin.close()
            if pause is None:
                return
            self._stopping.wait(pause)

    def _until_stopped(self, session: Flow[float | None]) -> Flow[float | None]:
        """The session's effects; none after ``stop``."""
        reply: Any = None
        error: BaseException | None = None
        while not self._stopping.is_set():
            try:
                effect = session.send(reply) if error is None else session.throw(error)
            except StopIteration as end:
                pause: float | None = end.value
                return pause
            reply, error = None, None
            try:
                reply = yield effect
            except (NotSent, RedisError, OSError) as caught:
                error = caught
        return None


def await_outcome(replica: Replica, waiter: Waiter, woken: Any, until: float | None, seconds: float | None) -> KVPoll:
    """Sleep until the waiter is woken. ``until`` is a time, that of ``seconds`` from the beginning."""
    woken.acquire(timeout=-1 if until is None else max(0.0, until - time.monotonic()))
    return replica.result(waiter, seconds)


def locked() -> Any:
    lock = threading.Lock()
    lock.acquire()
    return lock


def until(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds
