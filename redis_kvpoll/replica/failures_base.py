"""What sync and aio share of followers of failures: what they tell, and how they begin and end."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from redis_kvpoll import validation
from redis_kvpoll._process import OfOneProcess
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.session import WriteObserver
from redis_kvpoll.errors import InvalidInputError, StoreClosedError
from redis_kvpoll.model import RoomFailure
from redis_kvpoll.protocol.failures import of_opening
from redis_kvpoll.protocol.script_call import Call, CallContext
from redis_kvpoll.protocol.script_specs import OPEN
from redis_kvpoll.replica.failures import FailureFollower, FailureLog
from redis_kvpoll.replica.health import have_begun, trouble_of
from redis_kvpoll.replica.host import WeakHost, followed, groups
from redis_kvpoll.replica.listeners import Listeners, Turn


class FailuresBase(OfOneProcess, WriteObserver, ABC):
    """The failures of a store's rooms, to be read. Failures and AsyncFailures run its followers."""

    def __init__(self, executor: Executor, rooms: Callable[[], Iterable[int]], turn: Turn) -> None:
        if not callable(rooms):
            raise InvalidInputError(f"failures: rooms is a function that lists rooms, not {type(rooms).__name__}")
        self._executor = executor
        self._rooms = rooms
        self._log: FailureLog | None = None
        self._listeners = Listeners("on_failure", lambda failure: failure.room, turn)
        self._followers: list[FailureFollower] = []
        self._closed = False

    def get(self, room: int) -> RoomFailure | None:
        """The latest failure that is known of a held room; None if there is none.

        It includes at once what an ``open`` of this store was told. It may be of another generation than the caller's:
        compare ``generation``, or ``request`` in another role's table.
        """
        if self._log is None or self._closed:
            raise self._refuse("get")
        try:
            return self._log.latest.get(validation.room(room))
        except InvalidInputError as error:
            raise InvalidInputError(f"get: {error}") from None

    def on_failure(self, callback: Callable[[RoomFailure], object]) -> Callable[[], None]:
        """Register ``callback(failure)`` for each failure of a held room, and for a reason that comes later.

        It may be registered before entry, too. The follower's own thread or task calls it, so it must be short; its
        exceptions are logged. A failure may be told twice, at the start or after an outage. Returns a function that
        ends the calls.
        """
        if self._closed:
            raise self._refuse("on_failure")
        return self._listeners.add(callback)

    @property
    def synced(self) -> bool:
        """Whether every failure of a held room was told that happened up to ``lag`` seconds ago, 6 at most."""
        return self._log is not None and not self._closed and self._log.is_synced(time.monotonic())

    @property
    def lag(self) -> float:
        """The seconds since it was last proved that no failure is missing: 2.75 and less while nothing is wrong."""
        return float("inf") if self._log is None else self._log.lag(time.monotonic())

    # The store's side

    def sync_token(self) -> Any:
        return None

    def observe_write(self, token: Any, call: Call, feed_id: bytes, reply: Sequence[Any]) -> None:
        """Take note of what an open found: a failure before it is in no entry that is still to be read."""
        if self._log is not None and call.spec is OPEN:
            self._log.opened(of_opening(call.rooms, reply))

    def server_changed(self) -> None:
        if self._log is not None:
            self._log.resyncs_wanted += 1

    # The followers' side

    def _notify(self) -> None:
        """Call the listeners, in the follower's thread or task."""
        if (log := self._log) is not None:
            self._listeners.tell(lambda: bool(log.news), lambda: self._take(log))

    def _take(self, log: FailureLog) -> Iterator[tuple[RoomFailure]]:
        for _ in range(len(log.news)):  # what comes meanwhile is for the next turn
            failure = log.news.popleft()
            if (context := self._executor.session.context) is not None:
                self._executor.recovery.members.fail(context, failure)
            yield (failure,)

    @abstractmethod
    def _progressed(self) -> None:
        """A follower has caught up for the first time, or has failed."""

    def _prepare(self, context: CallContext, lock: AbstractContextManager[Any], transport: Any) -> None:
        """Create the log, and followers that do not run yet."""
        if self._log is not None:  # another thread or task has entered meanwhile
            raise self._refuse_entry()
        self._log = log = FailureLog(followed(context, "failures"), self._rooms, lock)
        host, limit, can_block = WeakHost(self), transport.limit, transport.can_block
        self._followers = [
            FailureFollower(log, tags, host, limit, can_block) for tags in groups(context, transport.clustered)
        ]
        self._executor.session.add_observer(self)

    def _has_begun(self) -> bool:
        """Return whether all followers have caught up once; raises what keeps one from it."""
        if self._closed:  # by another thread or task
            raise self._refuse("failures")
        return have_begun(follower.health for follower in self._followers)

    def _refuse(self, operation: str, state: str = "is not open: use it in a with statement") -> StoreClosedError:
        return StoreClosedError(f"{operation}: this follower of failures {'was closed' if self._closed else state}")

    def _refuse_entry(self) -> StoreClosedError:
        """Return why it cannot be entered: it was closed, or was entered already."""
        return self._refuse("failures", "was entered already")


def read_since(failures: FailuresBase, room: int, moment: float) -> RoomFailure | None:
    """Return the latest failure of a room, if it was read since a moment of ``time.monotonic`` and is remembered.

    For a process that says late what it holds; it need not be held now.
    """
    failure, at = (None, 0.0) if failures._log is None else failures._log.recent.get(room, (None, 0.0))
    return failure if at >= moment else None


def is_complete_since(failures: FailuresBase, moment: float) -> bool:
    """Whether ``read_since`` knows each failure since a moment; otherwise only reading a room tells."""
    return failures._log is not None and failures.synced and moment > failures._log.complete_since


def why_failures_are_behind(failures: FailuresBase) -> str:
    """Return why a follower of failures is not current, empty if that is not known, or was logged as a rejection."""
    return trouble_of(follower.health for follower in failures._followers)
