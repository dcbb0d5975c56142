"""Follows the table of one namespace: its statistics, whether the server answers, what the doctor finds.

Invariant: a watch never ends by itself, whatever happens to the server; what it cannot do, it says in ``state``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from redis_kvpoll.aio.statistics import AsyncStatistics
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.model import Entry, KVPoll
from redis_kvpoll.protocol.feed import Change, FeedGap
from redis_kvpoll.protocol.feed_reader import Tail
from redis_kvpoll.protocol.settings import SCHEMA, Settings
from redis_kvpoll.serve.examine import Examination, Examine, in_daemon_thread
from redis_kvpoll.serve.history import ChartHistory
from redis_kvpoll.serve.room_changes import RoomChanges, keep, pause_end
from redis_kvpoll.serve.turns import Turns
from redis_kvpoll.serve.watch_state import ReadFailure, State, state_of
from redis_kvpoll.statistics.model import BOUNDS, Histogram, RoomRow, Snapshot

INTERVAL = 1.0
FIRST_INTERVAL, FIRST_SECONDS = 0.1, 5.0
"""Seconds between the first snapshots, and for how long: a small table is synced at once."""
DOCTOR_INTERVAL = 60.0
FIRST_CHANGE = 1.0
"""Seconds that a page waits for the feed."""
MOST_SEARCHED, SEARCH_PAGE, MOST_FOUND = 20_000, 500, 50
"""Rooms that a search for a request reads, and how many at once."""
USE_COMMAND = "kvpoll find looks at all"

log = logging.getLogger(__name__)


class SearchResult(NamedTuple):
    """The rooms that a search has found."""

    entries: list[Entry]
    unread: str
    """Why not all rooms were looked at; "" if they were."""


class Watch:
    """The table of one namespace, as far as it is known."""

    def __init__(self, store: AsyncStatusStore, name: str, stuck_after: float, examine: Examine | None = None) -> None:
        self.store = store
        self.name = name
        self.snapshot = Snapshot(name, time.time(), synced=False, lag_seconds=float("inf"), stuck_after=stuck_after)
        self.history = ChartHistory()
        self.settings: Settings | None = None
        self.examination = Examination((), "", "")
        self.examined_at: float | None = None
        self.ticked_at = time.monotonic()
        """When the snapshot was taken, by the clock of this process."""
        self.counts_since: float | None = None
        """The server's time from which on failures are counted; None until the table was read whole."""
        self._stuck_after = stuck_after
        self._examine = examine
        self._exists: bool | None = None
        self._failure: ReadFailure | None = None
        self._round_trips = [0] * (len(BOUNDS) + 1)
        self._round_trips_sum = 0.0
        self.statistics: AsyncStatistics | None = None
        self._lists: dict[Hashable, tuple[list[RoomRow], float]] = {}
        self._read_turns = Turns()
        self.changes = RoomChanges(store, self._read_turns)
        self.list_turns = Turns()
        """For lists of ended rooms that programs ask for."""

    async def run(self) -> None:
        """Follow the table until cancelled."""
        parts = [self._repeat(self._ask, INTERVAL), self._repeat(self._follow, INTERVAL)]
        if self._examine is not None:
            parts.append(self._repeat(self._see_doctor, DOCTOR_INTERVAL))
        await asyncio.gather(*parts)  # none of them ends: a TaskGroup may lose a cancellation beside an error

    @property
    def state(self) -> State:
        """Whether the numbers are current."""
        was_there = self.settings is not None
        return state_of(self.snapshot, self._failure, self._exists is False, was_there, self.examination.findings)

    def now(self) -> float:
        """Return the server's time, from which ages are counted; that of the last reading while it is not current.

        Rooms may have changed since the snapshot: its own time would be before their changes.
        """
        snapshot = self.snapshot
        if not snapshot.synced:
            return snapshot.at
        return snapshot.at + snapshot.lag_seconds + time.monotonic() - self.ticked_at

    def described(self) -> dict[str, str]:
        """Return what kind of table it is, by name."""
        settings = self.settings
        policy, shards = (settings.policy, str(settings.shards)) if settings else ("", "")
        return {
            "schema": SCHEMA if settings else "",
            "policy": policy,
            "shards": shards,
            "server": self.examination.server,
            "server_version": self.examination.server_version,
        }

    def round_trips(self) -> Histogram:
        """Return how long this process's own calls took."""
        return Histogram(tuple(self._round_trips), self._round_trips_sum)

    async def _repeat(self, do: Callable[[], Awaitable[None]], interval: float) -> None:
        while True:
            await self._try(do)
            await asyncio.sleep(interval)

    async def _try(self, do: Callable[[], Awaitable[None]]) -> None:
        try:
            await do()
        except Exception:
            log.exception("namespace %s", self.name)

    async def _ask(self) -> None:
        """Read the settings: the smallest call there is, which also tells whether the namespace exists."""
        began = time.perf_counter()
        try:
            found = await self.store.settings()
        except KVPollError as error:
            failure, before = ReadFailure.of(error), self._failure
            if before is None or before.is_silence != failure.is_silence:
                log.warning("namespace %s: %s", self.name, error)
            else:
                failure = failure._replace(since=before.since)
            self._failure = failure
            return
        took = time.perf_counter() - began
        self._round_trips[bisect_left(BOUNDS, took)] += 1
        self._round_trips_sum += took
        if self._failure is not None:
            log.warning("namespace %s: the table can be read again", self.name)
        self._failure = None
        if found is None and self._exists:  # Redis keeps no time of it
            log.warning("namespace %s: not found any more: its data is gone, or it has expired", self.name)
        elif found is not None and self._exists is False:
            log.warning("namespace %s: it is there", self.name)
        self._exists = found is not None
        self.settings = found or self.settings

    async def _follow(self) -> None:
        """Take a snapshot each second."""
        async with self.store.statistics(stuck_after=self._stuck_after) as statistics:
            self.statistics = statistics

            async def take() -> None:
                self.snapshot = statistics.snapshot()
                self.history.add(self.snapshot)
                self.ticked_at = time.monotonic()
                if self.counts_since is None and self.snapshot.synced:
                    self.counts_since = self.snapshot.at

            began = time.monotonic()
            while not self.snapshot.synced and time.monotonic() < began + FIRST_SECONDS:
                await self._try(take)
                await asyncio.sleep(FIRST_INTERVAL)
            await self._repeat(take, INTERVAL)

    async def _see_doctor(self) -> None:
        assert self._examine is not None  # noqa: S101 - run has checked it
        snapshot = self.snapshot
        lag = snapshot.lag_seconds if snapshot.synced and snapshot.has_feed else None
        self.examination = await in_daemon_thread(self._examine, lag)
        self.examined_at = time.time()

    # What pages ask for

    def rows(self, statuses: list[KVPoll], longer_than: float, owner: str | None, most: int) -> list[RoomRow]:
        """Return the rooms at some statuses whose status is the oldest first."""
        if (statistics := self.statistics) is None:
            return []
        read = partial(statistics.rooms, statuses, longer_than=longer_than, owner=owner, limit=most)
        return self._paced((*statuses, longer_than, owner, most), read)

    def latest_rows(self, status: KVPoll, most: int) -> list[RoomRow]:
        """Return the rooms at a status that got it last, the newest first."""
        if (statistics := self.statistics) is None:
            return []
        return self._paced((status, most), partial(statistics.latest, status, most))

    def _paced(self, key: Hashable, read: Callable[[], list[RoomRow]]) -> list[RoomRow]:
        """Return rooms of the statistics; those of before, while reading them again would take too much of the CPU.

        Ended rooms are in no order: with a million rooms it takes a second to find the latest.
        """
        kept, until = self._lists.get(key, ([], 0.0))
        began = time.monotonic()
        if began < until:
            return kept
        found = read()
        keep(self._lists, key, (found, pause_end(began)))
        return found

    async def entries(self, rooms: list[int]) -> dict[int, Entry]:
        """Return all that the table has of some rooms; nothing while the server does not answer."""
        if self._failure is None and rooms:
            with suppress(KVPollError):  # which the state says
                return await self._read(rooms)
        return {}

    async def _read(self, rooms: list[int]) -> dict[int, Entry]:
        return {room: entry for room, entry in (await self.store.entries(rooms)).items() if isinstance(entry, Entry)}

    async def latest_changes(self, most: int) -> list[Change | FeedGap] | None:
        """Return the last changes of all rooms, the oldest first; None without a feed, or an answer in time."""
        if not (self._exists and self.settings and self.settings.feed_length) or self._failure is not None:
            return None
        tail = self.store.tail(most)
        found: list[Change | FeedGap] = []
        # The iterator never ends: after the last changes, and if there is none, it waits for new ones.
        with suppress(TimeoutError, KVPollError):
            async with asyncio.timeout(FIRST_CHANGE):
                found.append(await anext(tail))
            async with asyncio.timeout(Tail.IDLE / 2):
                while len(found) < most:
                    found.append(await anext(tail))
        is_empty = self.snapshot.synced and not any(feed.entries for feed in self.snapshot.feeds)
        return found if found or is_empty else None

    async def find(self, request: str) -> SearchResult:
        """Return the rooms of a request, or whose request has this in it; raises BusyError if too many ask."""
        async with self._read_turns.take():
            return await self._search(request)

    async def _search(self, request: str) -> SearchResult:
        state, found = self.state, list[Entry]()
        if state.word == "away":
            return SearchResult(found, state.text)
        rows = self.rows(list(KVPoll), 0.0, None, MOST_SEARCHED + 1)
        for first in range(0, min(len(rows), MOST_SEARCHED), SEARCH_PAGE):
            try:
                page = await self._read([row.room for row in rows[first : first + SEARCH_PAGE]])
            except KVPollError as error:
                return SearchResult(found, str(error))
            found += [entry for entry in page.values() if request in (entry.request or "")]
            if len(found) >= MOST_FOUND:
                return SearchResult(found[:MOST_FOUND], USE_COMMAND)
        more = USE_COMMAND if len(rows) > MOST_SEARCHED else ""
        return SearchResult(found, state.text if state.word == "reading" else more)
