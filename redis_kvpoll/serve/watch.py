"""Follows the table of one namespace: its statistics, whether the server answers, what the doctor finds.

Invariant: a watch never ends by itself, whatever happens to the server; what it cannot do, it says in ``state``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple, Protocol

from redis_kvpoll.aio.statistics import AsyncStatistics
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.errors import InvalidInputError, KVPollError
from redis_kvpoll.protocol.settings import SCHEMA, Settings
from redis_kvpoll.serve import formats
from redis_kvpoll.serve.history import ChartHistory
from redis_kvpoll.statistics.model import BOUNDS, Histogram, Snapshot

INTERVAL = 1.0
DOCTOR_INTERVAL = 60.0
LATE = 5.0
"""Seconds of lag from which on the page says that it is behind."""

log = logging.getLogger(__name__)


class FindingLike(Protocol):
    """What this package needs of a finding of the doctor."""

    @property
    def check(self) -> str: ...
    @property
    def level(self) -> int: ...
    @property
    def found(self) -> str: ...
    @property
    def advice(self) -> str: ...


Examine = Callable[[], Sequence[FindingLike]]
"""The doctor's look at one namespace; it blocks, for some seconds."""


class State(NamedTuple):
    """Whether the numbers are current, in one word and one sentence."""

    word: str
    """synced, late, reading, absent, away."""
    tone: str
    text: str


class Watch:
    """The table of one namespace, as far as it is known."""

    def __init__(self, store: AsyncStatusStore, name: str, stuck_after: float, examine: Examine | None = None) -> None:
        self.store = store
        self.name = name
        self.snapshot = Snapshot(name, time.time(), synced=False, lag_seconds=float("inf"), stuck_after=stuck_after)
        self.history = ChartHistory()
        self.settings: Settings | None = None
        self.findings: Sequence[FindingLike] = ()
        self.examined_at: float | None = None
        self.ticked_at = time.monotonic()
        self.error: str | None = None
        self._stuck_after = stuck_after
        self._examine = examine
        self._exists: bool | None = None
        self._away_since: float | None = None
        self._round_trips = [0] * (len(BOUNDS) + 1)
        self._round_trips_sum = 0.0
        self.statistics: AsyncStatistics | None = None

    async def run(self) -> None:
        """Follow the table until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self._ask, INTERVAL), name=f"ask {self.name}")
            tasks.create_task(self._follow(), name=f"follow {self.name}")
            if self._examine is not None:
                tasks.create_task(self._repeat(self._see_doctor, DOCTOR_INTERVAL), name=f"doctor {self.name}")

    @property
    def state(self) -> State:
        """Whether the numbers are current."""
        snapshot = self.snapshot
        if self._away_since is not None:
            since = f"{formats.clock(self._away_since)} UTC"
            return State("away", "bad", f"Redis does not answer since {since}: {self.error}")
        if self._exists is False:
            return State("absent", "warn", f"Namespace {self.name} not found: no process has opened it, or it is empty")
        if snapshot.error is not None:
            return State("away", "bad", snapshot.error)
        if not snapshot.synced:
            walked = "" if snapshot.walked is None else f": {formats.count(snapshot.walked)} rooms so far"
            return State("reading", "warn", f"Reading the table{walked}")
        behind = f"{formats.duration(snapshot.lag_seconds)} behind"
        if not snapshot.has_feed:
            return State("synced", "warn", f"Read once a minute, as this namespace keeps no feed; {behind}")
        if snapshot.lag_seconds > LATE:
            return State("late", "warn", f"Late: {behind}")
        return State("synced", "good", f"Synced, {behind}")

    def described(self) -> dict[str, str]:
        """Return what kind of table it is, by name."""
        settings = self.settings
        if settings is None:
            return {"schema": "", "policy": "", "shards": ""}
        return {"schema": SCHEMA, "policy": settings.policy, "shards": str(settings.shards)}

    def round_trips(self) -> Histogram:
        """Return how long this process's own calls took."""
        return Histogram(tuple(self._round_trips), self._round_trips_sum)

    async def _repeat(self, do: Callable[[], Awaitable[None]], interval: float) -> None:
        while True:
            try:
                await do()
            except Exception:
                log.exception("namespace %s", self.name)
            await asyncio.sleep(interval)

    async def _ask(self) -> None:
        """Read the settings: the smallest call there is, which also tells whether the namespace exists."""
        began = time.perf_counter()
        try:
            self.settings = await self.store.settings() or self.settings
        except KVPollError as error:
            if self._away_since is None:
                self._away_since = time.time()
                log.warning("namespace %s: %s", self.name, error)
            self.error = str(error)
            return
        took = time.perf_counter() - began
        self._round_trips[bisect_left(BOUNDS, took)] += 1
        self._round_trips_sum += took
        if self._away_since is not None:
            log.warning("namespace %s: Redis answers again", self.name)
        self._away_since = self.error = None
