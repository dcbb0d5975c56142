"""What holds a replica: a mirror, or the waits of a store.

Invariant: a follower has no strong reference to its host. So a store that is dropped without ``close`` is collected,
with its mirrors, and their followers end.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from redis_kvpoll import validation
from redis_kvpoll._process import OfOneProcess
from redis_kvpoll.engine.effects import Flow, Sleep
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.session import WriteObserver
from redis_kvpoll.errors import FeedOffError, RoomNotFoundError, StoreUnavailableError, WaitTimeoutError
from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol import fenced_commands, keys
from redis_kvpoll.protocol.script_call import Call, CallContext
from redis_kvpoll.protocol.settings import ExpectedSettings
from redis_kvpoll.replica.follow import Follower
from redis_kvpoll.replica.replica import Replica, SyncToken
from redis_kvpoll.replica.requests import OrphanedError
from redis_kvpoll.replica.waiter import Waiter

IDLE_TIMEOUT = 5.0
"""Seconds for which a follower runs on after the last wait, so that the next wait needs no resync."""

HELD_PAUSE = 0.05
"""Seconds after which a wait looks again for a room that the store holds and the copy lacks, or for the server."""

logger = logging.getLogger("redis_kvpoll.mirror")


def checked_wait(room: Any, statuses: Iterable[Any], timeout: Any) -> tuple[int, frozenset[KVPoll], float | None]:
    """Return the room, the statuses that end the wait, and the seconds that it may take."""
    with validation.of("wait"):
        room, ends, seconds = validation.room(room), validation.wait_statuses(statuses), validation.timeout(timeout)
    return room, ends, seconds


def arm_or_end(replica: Replica, waiter: Waiter, status: KVPoll | None) -> KVPoll | None:
    """Let a waiter end with the next change of its room, which was read. If it ends at once, return its status.

    Raises:
        RoomNotFoundError: the room is absent.
    """
    if status is None:
        raise RoomNotFoundError(waiter.room, "wait")
    if status in waiter.goal:
        return status
    replica.arm(waiter)
    return None


def followed(context: CallContext, operation: str) -> CallContext:
    """Return the context; FeedOffError if the namespace has no feed to follow."""
    if context.feed_length == "0":
        raise FeedOffError(operation, context.namespace)
    return context


def groups(context: CallContext, clustered: bool) -> list[list[str]]:
    """Return the shards by the connection that follows them: all of a server; in a cluster each, since it can move."""
    tags = keys.tags(context.namespace, context.shards)
    return [[tag] for tag in tags] if clustered else [tags]


class ReplicaHost(OfOneProcess, WriteObserver):
    """A replica of a store's table, kept current by followers and by the store's own writes."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._replica: Replica | None = None

    # The store's side

    def sync_token(self) -> SyncToken:
        replica = self._replica
        return {} if replica is None else replica.sync_token()

    def observe_write(self, token: SyncToken, call: Call, feed_id: bytes, reply: Sequence[Any]) -> None:
        if (replica := self._replica) is not None:
            try:
                replica.observe_write(token, call, feed_id, reply, time.monotonic())
            except Exception:
                # Most likely raised by the mirror's rooms=. The write is done, and its caller is not to blame: the
                # replica wants to be read anew, and the follower reports what fails there.
                logger.debug("a reply could not be applied to a copy", exc_info=True)

    def server_changed(self) -> None:
        if (replica := self._replica) is not None:
            replica.server_changed()

    @property
    def is_interrupted(self) -> bool:
        return (replica := self._replica) is not None and replica.is_interrupted

    # The followers' side: see replica/follow.py

    def _follower(self, replica: Replica, tags: list[str], transport: Any) -> Follower:
        host, period = WeakHost(self), replica.period
        return Follower(replica, tags, host, transport.clustered, transport.limit, transport.can_block, period)

    def _may_end(self, replica: Replica, tags: Sequence[str]) -> bool:
        return False

    def _progressed(self) -> None:
        pass

    def _notify(self) -> None:
        """Call the listeners, if there are any, in the follower's thread or task."""

    def _is_held(self, tag: str, room: int) -> bool:
        """Whether the store tracks this room, and neither cleared it nor has seen its end."""
        return self._executor.recovery.tracked_rooms.holds(tag, room, time.monotonic())

    def _ask_store(self, room: int, for_wait: bool) -> Flow[bool]:
        """Whether a room that this copy does not have is there, and held by this store.

        The follower may have found the loss of data that the store is about to repair; to attach repairs it. A wait
        also goes on while the room awaits the process that created it.
        """
        context = yield from self._executor.context("wait")
        if not self._is_held(keys.tag(context.namespace, context.shards, room), room):
            return False
        try:
            yield from self._executor.run(fenced_commands.attach(room), [])
        except RoomNotFoundError:
            if not for_wait or not self._executor.recovery.tracked_rooms.awaits_creator(room):
                return False
        yield Sleep(HELD_PAUSE)
        return True


class WaitTurns:
    """Decides whether a wait goes on after a turn (read the room, then sleep until it changes) that ended by an error.

    A room that the store holds may be absent for a while, after a loss of data. An outage ends only the first turn, and
    only by its first read: from then on the wait goes on until its time is over.
    """

    def __init__(self, host: ReplicaHost, room: int, seconds: float | None) -> None:
        self._host = host
        self._room = room
        self._seconds = seconds
        self._is_first = True

    def after(self, error: RoomNotFoundError | StoreUnavailableError, is_over: bool) -> Flow[None]:
        """Return when the next turn may begin, or raise how the wait ends. There are two turns, however late it is."""
        is_first, self._is_first = self._is_first, False
        is_away = isinstance(error, StoreUnavailableError)
        if is_away and is_first:
            raise error
        try:
            goes_on = is_away or (yield from self._host._ask_store(self._room, for_wait=True))
        except StoreUnavailableError:
            goes_on = is_away = True
        if not goes_on:
            raise error
        if is_away:
            yield Sleep(HELD_PAUSE)
        if is_over and not is_first:
            raise WaitTimeoutError(self._room, None, self._seconds or 0.0) from None


class WeakHost:
    """A host for its followers, who do not keep it alive. Every method raises OrphanedError once it was collected."""

    def __init__(self, host: Any) -> None:
        self._ref = weakref.ref(host)

    def _host(self) -> Any:
        host = self._ref()
        if host is None:
            raise OrphanedError
        return host

    @property
    def expected_settings(self) -> ExpectedSettings:
        settings: ExpectedSettings = self._host()._executor.session.expected_settings
        return settings

    def notify(self) -> None:
        self._host()._notify()

    def progressed(self) -> None:
        self._host()._progressed()

    def may_end(self, replica: Replica, tags: Sequence[str]) -> bool:
        return bool(self._host()._may_end(replica, tags))

    def is_held(self, tag: str, room: int) -> bool:
        return bool(self._host()._is_held(tag, room))

    def ask_store(self, room: int) -> Flow[bool]:
        """Return the flow that asks the store for a room; a driver of the store's runs it."""
        flow: Flow[bool] = self._host()._ask_store(room, for_wait=False)
        return flow
