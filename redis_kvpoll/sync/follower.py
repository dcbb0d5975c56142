"""The thread that runs a follower."""

from __future__ import annotations

import logging
import threading
from typing import Any

from redis.exceptions import RedisError

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.replica.follow import REJECTED_RETRY, Follower
from redis_kvpoll.sync.dispatcher import drive
from redis_kvpoll.sync.transport import Transport

logger = logging.getLogger("redis_kvpoll.mirror")


class FollowerThread:
    """Runs the sessions of a follower one after the other, each over connections of its own."""

    def __init__(self, transport: Transport, follower: Follower, namespace: str) -> None:
        self.follower = follower
        self._transport = transport
        self._clone: Transport | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"kvpoll-follow-{namespace}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and join it, unless it is the current one."""
        self._stopping.set()
        if (clone := self._clone) is not None:
            clone.cut()
        if not self.is_current:
            self._thread.join()

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in this thread, in a callback."""
        return self._thread is threading.current_thread()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._clone = clone = self._transport.clone()
            session = self.follower.session()
            pause: float | None = REJECTED_RETRY
            try:
                pause = drive(self._until_stopped(session), clone.perform)
            except Exception:
                logger.exception("a follower's session failed unexpectedly; the next begins in %g s", REJECTED_RETRY)
            finally:
                session.close()
                clone.close()
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
