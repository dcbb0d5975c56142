"""The table of one side of a replay, what a worker knows of it, and how long calls to it take.

Invariant: what a worker knows of a room, its table has said: in a reply to a write or a read. News from elsewhere (a
failure that is followed, a message of the other side) only makes it read the room.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from redis_kvpoll.engine.store_options import DEFAULT_DEADLINE
from redis_kvpoll.model import KVPoll, Outcome, Update
from redis_kvpoll.replay.fault_plan import Side
from redis_kvpoll.replay.messages import Measured, Plan
from redis_kvpoll.sync.failures import Failures
from redis_kvpoll.sync.store import StatusStore

READ_ALL_SECONDS = 2.0
"""The time between two reads of all rooms: for news that a killed worker did not send."""


def namespace(plan: Plan, side: Side) -> str:
    return f"{plan.namespace}-{side}"


def open_store(plan: Plan, side: Side, deadline: float = DEFAULT_DEADLINE) -> StatusStore:
    """The store of one side; terminal rooms expire as soon as live ones, so that a leak shows soon."""
    return StatusStore.from_url(
        plan.url,
        namespace=namespace(plan, side),
        policy=plan.policy,
        mode=side,
        ttl=plan.ttl,
        terminal_ttl=plan.ttl,
        deadline=deadline,
    )


class Meter:
    """Durations and outcomes of calls since the last ``take``."""

    def __init__(self) -> None:
        self._measured = _nothing()

    @contextmanager
    def poll(self, rooms: int) -> Iterator[None]:
        with self._timed(self._measured.polls):
            yield
        self._measured = self._measured._replace(rooms_polled=self._measured.rooms_polled + rooms)

    @contextmanager
    def update(self) -> Iterator[list[Update]]:
        """Time the block as an update; it appends the updates to the list."""
        updates: list[Update] = []
        with self._timed(self._measured.updates):
            yield updates
        for update in updates:
            self._measured.outcomes[update.outcome] += 1
        self._measured = self._measured._replace(rooms_updated=self._measured.rooms_updated + len(updates))

    def take(self) -> Measured:
        """The measurements since the last call of this."""
        taken, self._measured = self._measured, _nothing()
        return taken

    @contextmanager
    def _timed(self, durations: list[float]) -> Iterator[None]:
        started = time.perf_counter()
        yield
        durations.append(time.perf_counter() - started)


def _nothing() -> Measured:
    return Measured([], [], 0, 0, Counter[Outcome]())


class SideTable:
    """One side's table. Updates and reads are measured; other calls go to ``store``."""

    def __init__(self, plan: Plan, side: Side, meter: Meter) -> None:
        self.side = side
        self.store = open_store(plan, side)
        self._meter = meter
        self._held: set[int] = set()
        self._known: dict[int, KVPoll | None] = {}
        self._news: deque[int] = deque()
        """Rooms to read again. The follower's thread appends to it."""
        self._failures: Failures | None = None
        self._read_all_at = time.monotonic() + READ_ALL_SECONDS

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow the failures of the held rooms in this block, so that ``poll`` need not read them."""
        with self.store.failures(self._held.copy) as failures:
            failures.on_failure(lambda failure: self.tell(failure.room))
            self._failures = failures
            yield

    def hold(self, rooms: Iterable[int]) -> None:
        """Follow these rooms, too; call it before they are opened, so that no failure is missed."""
        self._held.update(rooms)

    def forget(self, room: int) -> None:
        self._held.discard(room)
        self._known.pop(room, None)

    def tell(self, room: int) -> None:
        """There is news of a room: the next poll reads it."""
        self._news.append(room)

    def learn(self, room: int, update: Update) -> None:
        """Take a held room's status from the reply to a write."""
        if room not in self._held:
            return
        self._known[room] = update.status
        if update.outcome in (Outcome.SKIPPED, Outcome.STALE):
            self.tell(room)

    def update(self, statuses: Mapping[int, KVPoll]) -> dict[int, Update]:
        with self._meter.update() as updates:
            by_room = self.store.update_many(statuses)
            updates += by_room.values()
        for room, update in by_room.items():
            self.learn(room, update)
        return by_room

    def timed(self) -> AbstractContextManager[list[Update]]:
        """A block that is timed as an update; it appends the updates to the list."""
        return self._meter.update()

    def poll(self, rooms: Sequence[int]) -> list[KVPoll | None]:
        """The rooms' statuses as far as they are known. Reads those with news; all, where a failure may be missing."""
        assert self._failures is not None  # noqa: S101 - only this side's rooms are polled
        news = {self._news.popleft() for _ in range(len(self._news))}
        now = time.monotonic()
        if now >= self._read_all_at or not self._failures.synced:
            self._read_all_at = now + READ_ALL_SECONDS
            self._read(rooms)
        else:
            self._read([room for room in rooms if room in news])
        return [self._known.get(room) for room in rooms]

    def _read(self, rooms: Sequence[int]) -> None:
        if not rooms:
            return
        with self._meter.poll(len(rooms)):
            statuses = self.store.poll(rooms)
        for room, status in zip(rooms, statuses, strict=True):
            self._known[room] = status
            if status is None:  # lost by the server and not replayed yet, perhaps
                self.tell(room)
