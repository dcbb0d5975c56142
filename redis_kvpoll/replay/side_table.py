"""The table of one side of a replay, its mirror, and how long calls to it take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from redis_kvpoll.engine.store_options import DEFAULT_DEADLINE
from redis_kvpoll.model import KVPoll, Outcome, Update
from redis_kvpoll.replay.fault_plan import Side
from redis_kvpoll.replay.messages import Measured, Plan
from redis_kvpoll.sync.mirror import Mirror
from redis_kvpoll.sync.store import StatusStore


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
    def poll(self) -> Iterator[None]:
        with self._timed(self._measured.polls):
            yield

    @contextmanager
    def mirror_poll(self) -> Iterator[None]:
        with self._timed(self._measured.mirror_polls):
            yield

    def compare(self, mirrored: Sequence[KVPoll | None], polled: Sequence[KVPoll | None], synced: bool) -> None:
        """Count the differences between a mirror's statuses and those of the call right after."""
        measured = self._measured
        behind = sum(one is not other for one, other in zip(mirrored, polled, strict=True)) if synced else 0
        self._measured = measured._replace(
            rooms_polled=measured.rooms_polled + len(polled),
            mirror_behind=measured.mirror_behind + behind,
            mirror_unsynced=measured.mirror_unsynced + (not synced),
        )

    @contextmanager
    def update(self) -> Iterator[list[Update]]:
        """Time the block as an update; it appends the updates to the list."""
        updates: list[Update] = []
        with self._timed(self._measured.updates):
            yield updates
        for update in updates:
            self._measured.outcomes[update.outcome] += 1
        self._measured = self._measured._replace(rooms_updated=self._measured.rooms_updated + len(updates))

    def take(self) -> Measured | None:
        """The measurements since the last call of this; None if no call was measured."""
        taken = self._measured
        if not taken.updates and not taken.polls:
            return None
        self._measured = _nothing()
        return taken

    @contextmanager
    def _timed(self, durations: list[float]) -> Iterator[None]:
        started = time.perf_counter()
        yield
        durations.append(time.perf_counter() - started)


def _nothing() -> Measured:
    return Measured([], [], [], 0, 0, 0, 0, Counter[Outcome]())


class SideTable:
    """One side's table. Updates and polls are measured; other calls go to ``store``."""

    def __init__(self, plan: Plan, side: Side, meter: Meter) -> None:
        self.side = side
        self.store = open_store(plan, side)
        self._meter = meter
        self._followed: set[int] = set()
        self._mirror: Mirror | None = None

    @contextmanager
    def mirrored(self) -> Iterator[None]:
        """Poll from a mirror of the followed rooms in this block."""
        with self.store.mirror(rooms=self._followed.__contains__) as mirror:
            self._mirror = mirror
            yield

    def follow(self, rooms: Iterable[int]) -> None:
        """Add rooms to the mirror; call it before their first write, so that the mirror sees every change."""
        self._followed.update(rooms)

    def forget(self, rooms: Iterable[int]) -> None:
        self._followed.difference_update(rooms)

    def update(self, statuses: Mapping[int, KVPoll]) -> dict[int, Update]:
        with self._meter.update() as updates:
            by_room = self.store.update_many(statuses)
            updates += by_room.values()
        return by_room

    def timed(self) -> AbstractContextManager[list[Update]]:
        """A block that is timed as an update; it appends the updates to the list."""
        return self._meter.update()

    def poll(self, rooms: Sequence[int]) -> list[KVPoll | None]:
        """The mirror's statuses, or the server's while the mirror is not synced. Reads and compares both each time."""
        assert self._mirror is not None  # noqa: S101 - only this side's rooms are polled
        with self._meter.mirror_poll():
            mirrored = self._mirror.poll(rooms)
            synced = self._mirror.synced
        with self._meter.poll():
            polled = self.store.poll(rooms)
        self._meter.compare(mirrored, polled, synced)
        return mirrored if synced else polled
