"""The lease for blocking code, which a thread renews."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

from redis_kvpoll._fork import forkable
from redis_kvpoll.engine.leases.lease_base import LeaseBase
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.protocol.lease_commands import LeaseConfig
from redis_kvpoll.sync.dispatcher import Dispatcher
from redis_kvpoll.sync.follower import JOIN_TIMEOUT, Signal, start_thread

logger = logging.getLogger("redis_kvpoll.leases")


class _Stop(Signal):
    """Tells one thread to end."""

    is_set = False

    def set(self) -> None:
        self.is_set = True
        super().set()


class Lease(LeaseBase):
    """Makes a store the owner of the rooms that it creates, in a ``with`` statement.

    A store with a rank takes part in every room that it writes, until its own Success, Failed or clear. A thread renews
    the lease, and extends the TTL of its live rooms. When the heartbeats stop (the process was killed, or stopped for
    longer than ``ttl``), another lease holder fails the live rooms with the reason "owner ... lost". The former owner
    then gets LeaseLostError from its next update, open, ``set_decode_prefix_len``, or a handle's ``update`` or
    ``fail``; it may still clear rooms. From its next heartbeat on ``check`` raises it, too, and ``lost`` is True. On
    exit the lease is released, and rooms that are still live fail with the reason "owner ... left". Rooms of plain
    updates are owned, too, but after a loss of all data in Redis only those that were opened through a handle are
    brought back. In a child of ``fork`` the lease is the parent's, and the store has none.
    """

    def __init__(self, dispatcher: Dispatcher, config: LeaseConfig) -> None:
        super().__init__(dispatcher.executor, config)
        self._dispatcher = dispatcher
        forkable.add(self)
        self._stopping = _Stop()
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        """Release the lease. May be repeated."""
        if self._is_held:
            self._is_held = False
            try:
                self._stop()
                self._dispatcher.run(self._keeper.release())
            finally:  # also if it is interrupted: a lease that nobody renews is none
                self._keeper.stop_renewing()

    def __enter__(self) -> Self:
        self._executor.recovery.check_no_lease()  # before the try: to enter a held lease again must not end it
        self._stopping = stopping = _Stop()
        thread = threading.Thread(target=self._keep, args=(stopping,), name=f"kvpoll-lease-{self.name}", daemon=True)
        try:
            self._dispatcher.run(self._keeper.take())
            self._thread = thread
            self._is_held, self._forked_from = True, None
            start_thread(thread, "lease")  # it ends at once if a signal handler has closed the lease by now
        except BaseException:
            self._keeper.stop_renewing()  # it may have been taken, and nobody renews it
            self.close()  # its thread may run by now
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _keep(self, stopping: _Stop) -> None:
        keeper = self._keeper
        while True:
            stopping.wait(keeper.seconds_until_heartbeat())
            if stopping.is_set:
                return
            try:
                self._dispatcher.run(keeper.send_heartbeat())
            except KVPollError as error:
                keeper.heartbeat_failed(error)
            except BaseException:  # SystemExit, too, of a credential provider: nobody would renew the lease
                logger.exception("a heartbeat of %s failed unexpectedly; the next tries again", keeper)
            if keeper.lost:
                return

    def _stop(self) -> None:
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join(JOIN_TIMEOUT)  # it may need a lock of the caller's, as in follower.py

    def after_fork(self) -> None:
        """Reset in the child, where the thread does not run."""
        self._thread = None
        self._forked()
