"""What sync and aio share of mirrors: their reads, and how they begin and end.

Invariant: a mirror that was entered reads from the replica's own dict; any other raises StoreClosedError.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeVar, overload

from redis_kvpoll import validation
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.errors import InvalidInputError, StoreClosedError, printable
from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol.script_call import CallContext
from redis_kvpoll.replica.follow import Follower
from redis_kvpoll.replica.health import have_begun, trouble_of
from redis_kvpoll.replica.host import ReplicaHost, checked_wait, followed, groups
from redis_kvpoll.replica.listeners import Listeners, Turn
from redis_kvpoll.replica.replica import Replica
from redis_kvpoll.replica.waiter import Waiter

D = TypeVar("D")


class MirrorBase(ReplicaHost, ABC):
    """A local copy of a table, to be read. Mirror and AsyncMirror run its followers."""

    def __init__(
        self, executor: Executor, rooms: Callable[[int], bool] | None, period: float | None, turn: Turn
    ) -> None:
        super().__init__(executor)
        if rooms is not None and not callable(rooms):
            raise InvalidInputError(f"mirror: rooms is a function of a room, not {type(rooms).__name__}")
        with validation.of("mirror"):
            self._period = 0.0 if period is None else validation.seconds(period, "period")
        self._is_relevant = rooms
        self._listeners = Listeners("on_change", lambda room, status: room, turn)
        self._closed = False
        self._is_open = False
        """Whether it was entered: before the end of its entry it may lack rooms."""
        self._followers: list[Follower] = []

    @overload
    def get(self, room: int, /) -> KVPoll | None: ...
    @overload
    def get(self, room: int, default: D, /) -> KVPoll | D: ...
    def get(self, room: int, default: Any = None, /) -> Any:
        """The status of a room, or ``default`` when it is absent.

        A dict look-up: it needs neither the server nor a clock, and does not check its argument (an unhashable one
        raises TypeError, as for a dict). While ``synced`` is False it is the last known status. It includes at once
        what this store has written, except what ``reap`` or the end of its lease has failed: that comes with the feed.
        """
        # Only for a mirror that is not open: _bind replaces this method by the dict's own get.
        return self._open_replica("get").statuses.get(room, default)

    def poll(self, rooms: Iterable[int]) -> list[KVPoll | None]:
        """The status of each room in the given order, None when it is absent: one dict look-up per room."""
        self._open_replica("poll")
        try:
            return list(map(self.get, validation.listed(rooms)))
        except TypeError as error:  # the look-ups do not check their argument
            raise InvalidInputError(f"poll: it takes a list of rooms ({printable(str(error))})") from None

    def consensus(self, rooms: Iterable[int]) -> dict[int, KVPoll | None]:
        """The status that the ranks of each room agree on, None when it is absent: one dict look-up per room.

        Failed if any rank is, Bootstrapping while one is missing, else the lowest; without ranks, the room's own. As
        ``StatusStore.consensus``, but from this copy, without a call. As ``collect`` for what this store has written.
        """
        get = self._open_replica("consensus").consensus.get
        try:
            return {room: get(room) for room in validation.listed(rooms)}
        except TypeError as error:  # the look-ups do not check their argument
            raise InvalidInputError(f"consensus: it takes a list of rooms ({printable(str(error))})") from None

    def collect(self, room: int) -> dict[int, KVPoll]:
        """The status of each rank that has written, also of those that have cleared; empty when it is absent.

        As ``StatusStore.collect``, but from this copy, without a call. The other ranks' statuses are those of one
        moment. It includes at once what this store has written, except a failure and the first write to a room that
        other ranks have joined: these come with the feed, as the other ranks' statuses do. So do all writes that end
        while the mirror has no connection, or were under way when it made one.

        Raises:
            InvalidInputError: the store of this mirror has no rank (a ValueError).
        """
        replica = self._open_replica("collect")
        if not replica.context.rank:
            raise InvalidInputError("collect: this mirror's store has no rank: give it rank= and world_size=")
        try:
            ranks = replica.ranks.get(room)
        except TypeError as error:  # the look-up does not check its argument
            raise InvalidInputError(f"collect: it takes a room ({printable(str(error))})") from None
        return ranks.copy() if ranks is not None else {}

    def failure_reason(self, room: int) -> str | None:
        """Why a room failed; None when this copy does not know it.

        The reason comes with the feed, within milliseconds of the failure, also when this store wrote it. None means
        that the room is absent or has no reason, or that this copy was started, or resynced, after the reason was
        recorded: ``StatusStore.failure_reason`` asks the server.
        """
        replica = self._open_replica("failure_reason")
        with validation.of("failure_reason"):
            number = validation.room(room)
        return replica.failure_reason(number)

    def on_change(self, callback: Callable[[int, KVPoll | None], object]) -> Callable[[], None]:
        """Register ``callback(room, status)`` for each change of a status, which is None when the room is gone.

        It may be registered before entry, too. The mirror's own thread or task calls it for one change at a time, in
        the order of the shard's changes. These include changes by this process and, after an outage, the differences
        from before; not the rooms that exist when the mirror opens. The mirror waits for the callback, so it must be
        short; its exceptions are logged. Returns a function that ends the calls.
        """
        if self._closed:
            raise self._refuse("on_change")
        end = self._listeners.add(callback)
        self._listen()
        return end

    @property
    def synced(self) -> bool:
        """Whether this copy is current: all rooms are known, and the feed was read to its end in the last second.

        One limit, with ``read_only`` and a ``period``: if an empty feed gets more entries within one period than it
        keeps, the rooms of the dropped ones are known only after their next change.
        """
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

    def _refuse(self, operation: str, state: str = "is not open: use it in a with statement") -> StoreClosedError:
        return StoreClosedError(f"{operation}: this mirror {'was closed' if self._closed else state}")

    def _refuse_entry(self) -> StoreClosedError:
        """Return why it cannot be entered: it was closed, or was entered already."""
        return self._refuse("mirror", "was entered already")

    def _notify(self) -> None:
        """Call the listeners. The lock is free: they may read, and use the store."""
        if (replica := self._replica) is not None:
            self._listeners.tell(lambda: replica.has_changes, replica.take_changes)

    def _prepare(self, context: CallContext, lock: AbstractContextManager[Any], transport: Any) -> None:
        """Create a replica, and followers that do not run yet."""
        replica = Replica(followed(context, "mirror"), lock, self._is_relevant or _everything, self._period)
        self._replica = replica
        self._followers = [self._follower(replica, tags, transport) for tags in groups(context, transport.clustered)]
        self._executor.session.add_observer(self)

    def _has_begun(self) -> bool:
        """Return whether all followers have synced once; raises what keeps one from it."""
        if self._closed:  # by another thread or task
            raise self._refuse("mirror")
        return have_begun(follower.health for follower in self._followers)

    def _bind(self) -> None:
        """All rooms are known: from now on, ``get`` is the dict's."""
        assert self._replica is not None  # noqa: S101 - _prepare made it
        self._is_open = True
        self._listen()
        vars(self)["get"] = self._replica.statuses.get

    def _unbind(self) -> None:
        self._is_open = False
        self._executor.session.remove_observer(self)
        vars(self).pop("get", None)

    def _listen(self) -> None:
        """Record changes, if there are listeners, from the first sync on."""
        if self._replica is not None and self._listeners and all(follower.health.began for follower in self._followers):
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
        """Add a waiter for a room. It is armed if this copy has the room; else the room is to be read first."""
        replica = self._open_replica("wait")
        waiter = replica.enter(room, goal, wake, armed=room in replica.statuses)
        if self._closed:
            waiter.settle(self._refuse("wait"))
        return replica, waiter


def why_mirror_is_behind(mirror: MirrorBase) -> str:
    """Return why a mirror is not current, empty if that is not known, or was logged as a rejection."""
    return trouble_of(follower.health for follower in mirror._followers)


def _everything(room: int) -> bool:
    return True
