"""What sync and aio share of mirrors and waits: a replica, its connection to a store, and its reads.

Invariant: a mirror that was entered reads from the replica's own dict; any other raises StoreClosedError.
"""

from __future__ import annotations

import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, overload

from redis_kvpoll import validation
from redis_kvpoll.engine.effects import Flow, Sleep
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.session import WriteObserver
from redis_kvpoll.errors import FeedOffError, InvalidInputError, RoomNotFoundError, StoreClosedError, printable
from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol import fenced_commands, keys
from redis_kvpoll.protocol.script_call import Call, CallContext
from redis_kvpoll.replica.follow import Follower
from redis_kvpoll.replica.replica import Replica, SyncEpochs
from redis_kvpoll.replica.shard import Waiter

D = TypeVar("D")

IDLE_TIMEOUT = 5.0
"""Seconds for which a follower runs on after the last wait, so that the next wait needs no resync."""

HELD_PAUSE = 0.05
"""Seconds after which a wait looks again for a room that the store holds and the copy does not have."""

Callback = Callable[[int, KVPoll | None], object]

logger = logging.getLogger("redis_kvpoll.mirror")


def checked_wait(room: Any, statuses: Iterable[Any], timeout: Any) -> tuple[int, frozenset[KVPoll], float | None]:
    """Return the room, the statuses that end the wait, and the seconds that it may take."""
    try:
        return validation.room(room), validation.wait_statuses(statuses), validation.timeout(timeout)
    except InvalidInputError as error:
        raise InvalidInputError(f"wait: {error}") from None


def followed(context: CallContext, operation: str) -> CallContext:
    """Return the context; FeedOffError if the namespace has no feed to follow."""
    if context.feed_length == "0":
        raise FeedOffError(operation, context.namespace)
    return context


def groups(context: CallContext, clustered: bool) -> list[list[str]]:
    """Return the shards by the connection that follows them: all of a server; in a cluster each, since it can move."""
    tags = keys.tags(context.namespace, context.shards)
    return [[tag] for tag in tags] if clustered else [tags]


class ReplicaHost(WriteObserver):
    """A replica of a store's table, kept current by followers and by the store's own writes."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._replica: Replica | None = None
        self._callbacks: list[Callback] = []

    def sync_epochs(self) -> SyncEpochs:
        replica = self._replica
        return {} if replica is None else replica.sync_epochs()

    def observe_write(self, mark: SyncEpochs, call: Call, feed_id: bytes, reply: Sequence[Any]) -> None:
        if (replica := self._replica) is not None:
            replica.observe_write(mark, call, feed_id, reply, time.monotonic())

    def server_changed(self) -> None:
        if (replica := self._replica) is not None:
            replica.server_changed()

    def _follower(self, replica: Replica, tags: list[str], transport: Any, may_end: Callable[[], bool]) -> Follower:
        return Follower(
            replica,
            tags,
            expected_settings=lambda: self._executor.session.expected_settings,
            clustered=transport.clustered,
            limit=transport.limit,
            can_block=transport.can_block,
            notify=self._notify,
            progressed=self._progressed,
            may_end=may_end,
        )

    def _is_held(self, room: int) -> Flow[bool]:
        """Whether a room that this copy does not have is there, and held by this store.

        The follower may have found the loss of data that the store is about to repair; to attach repairs it.
        """
        context = yield from self._executor.context("wait")
        tag = keys.tag(context.namespace, context.shards, room)
        if not self._executor.recovery.tracked_rooms.holds(tag, room, time.monotonic()):
            return False
        try:
            yield from self._executor.run(fenced_commands.attach(room), [])
        except RoomNotFoundError:
            return False
        yield Sleep(HELD_PAUSE)
        return True

    def _progressed(self) -> None:
        """A follower has synced for the first time, or has failed."""

    def _notify(self) -> None:
        """Call the listeners, in the follower's thread or task. The lock is free: they may read, and use the store."""
        replica = self._replica
        if replica is None or not replica.notifying:
            return
        for room, status in replica.take_changes():
            for callback in tuple(self._callbacks):
                try:
                    callback(room, status)
                except Exception:
                    logger.exception("a callback of on_change raised for room %d", room)


class MirrorBase(ReplicaHost, ABC):
    """A local copy of a table, to be read. Mirror and AsyncMirror run its followers."""

    def __init__(self, executor: Executor, rooms: Callable[[int], bool] | None) -> None:
        super().__init__(executor)
        if rooms is not None and not callable(rooms):
            raise InvalidInputError(f"mirror: rooms is a function of a room, not {type(rooms).__name__}")
        self._is_relevant = rooms
        self._closed = False
        self._followers: list[Follower] = []

    @overload
    def get(self, room: int) -> KVPoll | None: ...
    @overload
    def get(self, room: int, default: D) -> KVPoll | D: ...
    def get(self, room: int, default: Any = None) -> Any:
        """The status of a room, or ``default`` when it is absent.

        A dict look-up: it needs neither the server nor a clock, and does not check its argument (an unhashable one
        raises TypeError, as for a dict). While ``synced`` is False it is the last known status. It includes at once
        what this store has written.
        """
        # Only for a mirror that is not open: _bind replaces this method by the dict's own get.
        return self._open_replica("get").statuses.get(room, default)

    def poll(self, rooms: Iterable[int]) -> list[KVPoll | None]:
        """The status of each room in the given order, None when it is absent: one dict look-up per room."""
        try:
            return list(map(self.get, rooms))
        except TypeError as error:  # the look-ups do not check their argument
            raise InvalidInputError(f"poll: it takes a list of rooms ({printable(str(error))})") from None

    def collect(self, room: int) -> dict[int, KVPoll]:
        """The status of each rank that has written, also of those that have cleared; empty when it is absent.

        As ``StatusStore.collect``, but from this copy, without a call. The other ranks' statuses are those of one
        moment. It includes at once what this store has written, except a failure and the first write to a room that
        other ranks have joined: these come with the feed, as the other ranks' statuses do.

        Raises:
            InvalidInputError: the store of this mirror has no rank (a ValueError).
        """
        replica = self._open_replica("collect")
        if not replica.context.rank:
            raise InvalidInputError("collect: this mirror's store has no rank: give it rank= and world_size=")
        return dict(sorted(replica.ranks.get(room, {}).copy().items()))

    def failure_reason(self, room: int) -> str | None:
        """Why a room failed; None when this copy does not know it.

        The reason comes with the feed, within milliseconds of the failure, also when this store wrote it. None means
        that the room is absent or has no reason, or that this copy was started, or resynced, after the reason was
        recorded: ``StatusStore.failure_reason`` asks the server.
        """
        replica = self._open_replica("failure_reason")
        try:
            return replica.failure_reason(validation.room(room))
        except InvalidInputError as error:
            raise InvalidInputError(f"failure_reason: {error}") from None

    def on_change(self, callback: Callback) -> Callable[[], None]:
        """Register ``callback(room, status)`` for each change of a status, which is None when the room is gone.

        The mirror's own thread or task calls it for one change at a time, in the order of the shard's changes. These
        include changes by this process and, after an outage, the differences from before; not the rooms that exist when
        the mirror opens. The mirror waits for the callback, so it must be short; its exceptions are logged. Returns a
        function that ends the calls.
        """
        if not callable(callback):
            raise InvalidInputError(f"on_change: it takes a function, not {type(callback).__name__}")
        # A new function per registration, so that a callback that is registered twice can be ended once.
        listener: Callback = lambda room, status: callback(room, status)  # noqa: E731
        self._callbacks.append(listener)
        self._listen()

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._callbacks.remove(listener)

        return end

    @property
    def synced(self) -> bool:
        """Whether this copy is current: all rooms are known, and the feed was read to its end in the last second."""
        replica = self._replica
        return replica is not None and not self._closed and replica.is_synced(time.monotonic())

    @property
    def lag(self) -> float:
        """How old this copy may be: the seconds since the feed was last read to its end; infinite before that.

        With several shards, the greatest of theirs.
        """
        replica = self._replica
        return float("inf") if replica is None else replica.lag(time.monotonic())

    def __repr__(self) -> str:
        if (replica := self._replica) is None or self._closed:
            state = "closed" if self._closed else "not open"
        else:
            rooms = len(replica.statuses)
            state = f"{rooms:,} room{'' if rooms == 1 else 's'}, synced={self.synced}, lag={self.lag:.3f} s"
        return f"<{type(self).__name__} namespace={self._executor.namespace!r}: {state}>"

    @abstractmethod
    def _open_replica(self, operation: str) -> Replica:
        """Return the replica, all rooms known; StoreClosedError when the mirror is not open."""

    def _refuse(self, operation: str) -> StoreClosedError:
        state = "was closed" if self._closed else "is not open: use it in a with statement"
        return StoreClosedError(f"{operation}: this mirror {state}")

    def _prepare(
        self, context: CallContext, lock: AbstractContextManager[Any], transport: Any, may_end: Callable[[], bool]
    ) -> None:
        """Create a replica, and followers that do not run yet."""
        replica = Replica(followed(context, "mirror"), lock, self._is_relevant or _everything)
        self._replica = replica
        self._followers = [
            self._follower(replica, tags, transport, may_end) for tags in groups(context, transport.clustered)
        ]
        self._executor.session.add_observer(self)

    def _has_begun(self) -> bool:
        """Return whether all followers have synced once; raises what keeps one from it."""
        if self._closed:  # by another thread or task
            raise self._refuse("mirror")
        for follower in self._followers:
            if not follower.began and follower.failure is not None:
                raise follower.failure
        return all(follower.began for follower in self._followers)

    def _bind(self) -> None:
        """All rooms are known: from now on, ``get`` is the dict's."""
        assert self._replica is not None  # noqa: S101 - _prepare made it
        self._listen()
        vars(self)["get"] = self._replica.statuses.get

    def _unbind(self) -> None:
        self._executor.session.remove_observer(self)
        vars(self).pop("get", None)

    def _listen(self) -> None:
        """Record changes, if there are listeners, from the first sync on."""
        if self._replica is not None and self._callbacks and all(follower.began for follower in self._followers):
            self._replica.notifying = True

    def _checked_wait(
        self, room: Any, statuses: Iterable[Any], timeout: Any
    ) -> tuple[int, frozenset[KVPoll], float | None]:
        """Return the room, the statuses that end the wait, and the seconds that it may take."""
        self._open_replica("wait")
        room, goal, seconds = checked_wait(room, statuses, timeout)
        if self._is_relevant is not None and not self._is_relevant(room):
            raise InvalidInputError(f"wait: this mirror leaves room {room} out")
        return room, goal, seconds

    def _enter(self, room: int, goal: frozenset[KVPoll], wake: Callable[[], object]) -> tuple[Replica, Waiter]:
        """Add a waiter for a room."""
        replica = self._open_replica("wait")
        waiter = replica.enter(room, goal, wake, armed=True)
        if self._closed:
            waiter.settle(self._refuse("wait"))
        return replica, waiter


def _everything(room: int) -> bool:
    return True
