"""What the blocking and the asyncio kind have in common: a replica with its place in a store, and reading it."""

from __future__ import annotations

import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, overload

from redis_kvpoll import validation
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.session import WriteObserver
from redis_kvpoll.errors import FeedOffError, InvalidInputError, StoreClosedError, printable
from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.script_call import Call, CallContext
from redis_kvpoll.replica.follow import Follower
from redis_kvpoll.replica.replica import Replica, SyncEpochs
from redis_kvpoll.replica.shard import Waiter

D = TypeVar("D")

IDLE_TIMEOUT = 5.0
"""Seconds for which a follower stays when nobody waits any more: the next to wait need not begin afresh."""

Callback = Callable[[int, KVPoll | None], object]

logger = logging.getLogger("redis_kvpoll.mirror")


def checked_wait(room: Any, statuses: Iterable[Any], timeout: Any) -> tuple[int, frozenset[KVPoll], float | None]:
    """The room, the statuses that end the wait, and the seconds that it may take."""
    try:
        return validation.room(room), validation.wait_statuses(statuses), validation.timeout(timeout)
    except InvalidInputError as error:
        raise InvalidInputError(f"wait: {error}") from None


def followed(context: CallContext, operation: str) -> CallContext:
    """The context, if the namespace has a feed to follow."""
    if context.feed_length == "0":
        raise FeedOffError(operation, context.namespace)
    return context


def groups(context: CallContext, clustered: bool) -> list[list[str]]:
    """The shards that one connection can follow: all of a server's; in a cluster, each may be elsewhere."""
    tags = keys.tags(context.namespace, context.shards)
    return [[tag] for tag in tags] if clustered else [tags]


class ReplicaHost(WriteObserver):
    """A replica of a store's table, kept up by followers. It hears what the store writes (see Executor.watch)."""

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

    def connection_lost(self) -> None:
        if (replica := self._replica) is not None:
            replica.connection_lost()

    def _follower(self, replica: Replica, tags: list[str], transport: Any, may_end: Callable[[], bool]) -> Follower:
        return Follower(
            replica,
            tags,
            expected_settings=lambda: self._executor.expected_settings,
            clustered=transport.clustered,
            limit=transport.limit,
            can_block=transport.can_block,
            notify=self._notify,
            has_news=self._has_news,
            may_end=may_end,
        )

    def _has_news(self) -> None:
        """A follower has begun, or could not."""

    def _notify(self) -> None:
        """Call who listens, in the follower's thread or task. The lock is free: they may read, and use the store."""
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
    """A local copy of a table, to be read. Mirror and AsyncMirror say how it is kept."""

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

        A dict look-up and no more: it asks neither the server nor a clock, and does not look at its argument (what has
        no hash is a TypeError, as for a dict). While ``synced`` is False it is what was last known. What this process
        has written is in it at once.
        """
        # This is for a mirror that is not open. One that is has its dict's own get in this place: see _bind.
        return self._open_replica("get").statuses.get(room, default)

    def poll(self, rooms: Iterable[int]) -> list[KVPoll | None]:
        """The status of each room in the given order, None when it is absent. As many dict look-ups."""
        try:
            return list(map(self.get, rooms))
        except TypeError as error:  # as a dict would say; the look-ups themselves do not look at what they are given
            raise InvalidInputError(f"poll: it takes a list of rooms ({printable(str(error))})") from None

    def collect(self, room: int) -> dict[int, KVPoll]:
        """The status of each rank that has been heard of, also of those that have cleared; empty when it is absent.

        As ``StatusStore.collect``, but from this copy: as ``get``, it asks nobody. The others' statuses are those of
        one moment. What this process has written is in it at once, but for a failure and for its first word to a room
        in which others are: these come with the feed, as the others' do.

        Raises:
            InvalidInputError: the store of this mirror has no rank (a ValueError).
        """
        replica = self._open_replica("collect")
        if not replica.context.rank:
            raise InvalidInputError("collect: this mirror's store has no rank: give it rank= and world_size=")
        return dict(sorted(replica.ranks.get(room, {}).copy().items()))

    def on_change(self, callback: Callback) -> Callable[[], None]:
        """Have ``callback(room, status)`` called for each change of a status; None means that the room is gone.

        It is called by the mirror's own thread or task, one change after the other, in the order in which they
        happened in a shard; changes by this process too, and after an outage what is different from before. What was
        there when the mirror was opened is no change. While it runs, nothing else is followed, so it must be short; if
        it raises, that is logged. The answer is a function that ends it.
        """
        if not callable(callback):
            raise InvalidInputError(f"on_change: it takes a function, not {type(callback).__name__}")
        # Each has its place of its own, so that one that is there twice can be ended once.
        listener: Callback = lambda room, status: callback(room, status)  # noqa: E731
        self._callbacks.append(listener)
        self._listen()

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._callbacks.remove(listener)

        return end

    @property
    def synced(self) -> bool:
        """Whether this copy is current: all is parse_status, and the end of the feed was seen in the last second."""
        replica = self._replica
        return replica is not None and not self._closed and replica.is_synced(time.monotonic())

    @property
    def lag(self) -> float:
        """How old this copy may be: the seconds since there was last nothing more to read, infinite before the first.

        With several shards, it is the oldest.
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
        """The replica, when it is all there; StoreClosedError when the mirror is not open."""

    def _refuse(self, operation: str) -> StoreClosedError:
        state = "was closed" if self._closed else "is not open: use it in a with statement"
        return StoreClosedError(f"{operation}: this mirror {state}")

    def _prepare(
        self, context: CallContext, lock: AbstractContextManager[Any], transport: Any, may_end: Callable[[], bool]
    ) -> None:
        """A replica, and followers that are yet to be run."""
        replica = Replica(followed(context, "mirror"), lock, self._is_relevant or _everything)
        self._replica = replica
        self._followers = [
            self._follower(replica, tags, transport, may_end) for tags in groups(context, transport.clustered)
        ]
        self._executor.add_observer(self)

    def _has_begun(self) -> bool:
        """Whether there was a moment when all was known; raises what keeps a follower from getting there."""
        if self._closed:  # by somebody else, meanwhile
            raise self._refuse("mirror")
        for follower in self._followers:
            if not follower.began and follower.failure is not None:
                raise follower.failure
        return all(follower.began for follower in self._followers)

    def _bind(self) -> None:
        """Everything is known: from now on, reading is the dict's."""
        assert self._replica is not None  # noqa: S101 - it was prepared
        self._listen()
        vars(self)["get"] = self._replica.statuses.get

    def _unbind(self) -> None:
        self._executor.remove_observer(self)
        vars(self).pop("get", None)

    def _listen(self) -> None:
        """From the first time that all is parse_status, changes are noted if anybody is_relevant to hear of them."""
        if self._replica is not None and self._callbacks and all(follower.began for follower in self._followers):
            self._replica.notifying = True

    def _enter(
        self, room: Any, statuses: Iterable[Any], timeout: Any, wake: Callable[[], object]
    ) -> tuple[Replica, Waiter, float | None]:
        """Begin to wait for a room."""
        replica = self._open_replica("wait")
        room, goal, seconds = checked_wait(room, statuses, timeout)
        if self._is_relevant is not None and not self._is_relevant(room):
            raise InvalidInputError(f"wait: this mirror leaves room {room} out")
        waiter = replica.enter(room, goal, wake, armed=True)
        if self._closed:
            waiter.settle(self._refuse("wait"))
        return replica, waiter, seconds


def _everything(room: int) -> bool:
    return True
