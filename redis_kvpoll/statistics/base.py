"""What sync and aio share of statistics: what is read of them, and how they begin."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from redis_kvpoll import validation
from redis_kvpoll._process import OfOneProcess
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.errors import InvalidInputError, KVPollError, StoreClosedError, StoreUnavailableError
from redis_kvpoll.model import KVPoll
from redis_kvpoll.statistics.aggregates import Aggregates
from redis_kvpoll.statistics.follow import StatisticsFollower
from redis_kvpoll.statistics.model import LIVE, RoomRow, Second, Snapshot

MAX_ROWS = 100_000


class NotSyncedYetError(StoreUnavailableError):
    """The time is over; nothing that is known keeps the statistics from syncing later."""


class StatisticsBase(OfOneProcess):
    """The statistics of a namespace, to be read. Statistics and AsyncStatistics run their follower."""

    def __init__(self, executor: Executor, stuck_after: Any, lookback: Any, share: Any) -> None:
        self._executor = executor
        with validation.of("statistics"):
            self._stuck_after = validation.seconds(stuck_after, "stuck_after")
            self._lookback = validation.seconds_or_zero(lookback, "lookback, if not 0,")
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
                raise InvalidInputError("share is a number above 0, and at most 1")
        self._share = float(share)
        self._closed = False
        self._follower: StatisticsFollower | None = None

    def snapshot(self) -> Snapshot:
        """The aggregates as of the last reading: no call, and at most some milliseconds.

        They are there from entry on: ``synced`` says whether they are complete, ``error`` what is wrong.
        """
        return self._aggregates("snapshot").snapshot(time.monotonic())

    def rooms(
        self,
        statuses: Iterable[KVPoll | int] = LIVE,
        *,
        longer_than: float = 0.0,
        owner: str | None = None,
        limit: int = 50,
    ) -> list[RoomRow]:
        """The rooms at some statuses, live ones by default, whose status is the oldest first: no call.

        ``longer_than``: only rooms whose last change is so many seconds ago. ``owner``: only rooms that were created
        under the leases of this name. ``StatusStore.entries`` reads their requests and reasons.
        """
        aggregates = self._aggregates("rooms")
        with validation.of("rooms"):
            chosen = [validation.status(status) for status in statuses]
            seconds = validation.seconds_or_zero(longer_than, "longer_than, if not 0,")
            if owner is not None and not isinstance(owner, str):
                raise InvalidInputError(f"owner is the name of a lease, not {type(owner).__name__}")
            most = min(validation.count(limit, "limit"), MAX_ROWS)
        return aggregates.rows(time.monotonic(), chosen, seconds, owner, most)

    def count(self, statuses: Iterable[KVPoll | int] = LIVE, *, longer_than: float = 0.0) -> int:
        """How many rooms are at some statuses, live ones by default: no call. See ``rooms``.

        With ``longer_than`` and ended statuses it looks at every room.
        """
        aggregates = self._aggregates("count")
        with validation.of("count"):
            chosen = [validation.status(status) for status in statuses]
            seconds = validation.seconds_or_zero(longer_than, "longer_than, if not 0,")
        return aggregates.count(time.monotonic(), chosen, seconds)

    def latest(self, status: KVPoll | int, limit: int = 50) -> list[RoomRow]:
        """The rooms that got a status last, the newest first: no call.

        It looks at every room: with a million of them it takes a second.
        """
        aggregates = self._aggregates("latest")
        with validation.of("latest"):
            chosen, most = validation.status(status), min(validation.count(limit, "limit"), MAX_ROWS)
        return aggregates.latest(time.monotonic(), chosen, most)

    def seconds(self, count: int = 60) -> list[Second]:
        """What happened in each of the last seconds that are complete, the oldest first; up to 900. No call."""
        aggregates = self._aggregates("seconds")
        with validation.of("seconds"):
            most = validation.count(count, "count")
        return aggregates.seconds(time.monotonic(), most)

    def __repr__(self) -> str:
        state = "not open" if self._follower is None else f"synced={self.snapshot().synced}"
        return f"<{type(self).__name__} namespace={self._executor.namespace!r}: {'closed' if self._closed else state}>"

    def _aggregates(self, operation: str) -> Aggregates:
        if self._follower is None:
            raise self._refuse(operation)
        return self._follower.aggregates

    def _refuse(self, operation: str, state: str = "are not open: use them in a with statement") -> StoreClosedError:
        return StoreClosedError(f"{operation}: these statistics {'were closed' if self._closed else state}")

    def _refuse_entry(self) -> StoreClosedError:
        """Return why they cannot be entered: they were closed, or were entered already."""
        return self._refuse("statistics", "were entered already")

    def _prepare(self, lock: AbstractContextManager[Any], transport: Any) -> StatisticsFollower:
        """Create the follower, which does not run yet. It ends when these statistics are dropped without ``close``."""
        ref, session = weakref.ref(self), self._executor.session

        def is_wanted() -> bool:
            mine = ref()
            return mine is not None and not mine._closed

        def progressed() -> None:
            if (mine := ref()) is not None:
                mine._progressed()

        self._follower = StatisticsFollower(
            Aggregates(session.namespace, self._stuck_after, lock),
            session.expected_settings,
            session.identity,
            transport,
            (self._share, self._lookback),
            is_wanted,
            progressed,
        )
        return self._follower

    def _progressed(self) -> None:
        """The follower has synced for the first time, or has met an error."""

    def _first_sync(self) -> Snapshot | None:
        """Return the first complete snapshot; None before it. Raises what keeps the follower from it."""
        aggregates, follower = self._aggregates("wait_synced"), self._follower
        assert follower is not None  # noqa: S101 - _aggregates has checked it
        if self._closed:
            raise self._refuse("wait_synced")
        snapshot = aggregates.snapshot(time.monotonic())
        if snapshot.synced:
            return snapshot
        if not follower.health.began and isinstance(follower.health.failure, KVPollError):
            raise follower.health.failure
        return None

    def _timed_out(self, timeout: float) -> NotSyncedYetError:
        snapshot = self.snapshot()
        why = snapshot.error or f"{snapshot.walked or 0:,} rooms were read"
        return NotSyncedYetError(f"statistics: the table was not read within {timeout:g} s ({why})")
