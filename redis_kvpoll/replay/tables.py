"""The two tables of a replay, the mirror of one, and how long calls to them take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from redis_kvpoll.engine.session import DEFAULT_DEADLINE
from redis_kvpoll.model import KVPoll, Outcome, Update
from redis_kvpoll.replay.fault_plan import Side
from redis_kvpoll.replay.messages import Measured, Plan
from redis_kvpoll.sync.mirror import Mirror
from redis_kvpoll.sync.store import StatusStore


def namespace(plan: Plan, side: Side) -> str:
    return f"{plan.namespace}-{side}"


def open_store(plan: Plan, side: Side, deadline: float = DEFAULT_DEADLINE) -> StatusStore:
    """The store of one side; ended rooms stay no longer than live ones, so that a leak shows soon."""
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
    """Durations and outcomes since they were last taken."""

    def __init__(self) -> None:
        self._measured = _nothing()

    @contextmanager
    def poll(self) -> Iterator[None]:
        with self._timed(self._measured.polls):
            yield

    @contextmanager
    def look(self) -> Iterator[None]:
        with self._timed(self._measured.looks):
            yield

    def compare(self, seen: Sequence[KVPoll | None], polled: Sequence[KVPoll | None], synced: bool) -> None:
        """What the mirror said, and what a call said right behind it."""
        measured = self._measured
        behind = sum(one is not other for one, other in zip(seen, polled, strict=True)) if synced else 0
        self._measured = measured._replace(
            rooms_polled=measured.rooms_polled + len(polled),
            behind=measured.behind + behind,
            unsynced=measured.unsynced + (not synced),
        )

    @contextmanager
    def update(self) -> Iterator[list[Update]]:
        """The block puts its updates into the list."""
        updates: list[Update] = []
        with self._timed(self._measured.updates):
            yield updates
        for update in updates:
            self._measured.outcomes[update.outcome] += 1
        self._measured = self._measured._replace(rooms_updated=self._measured.rooms_updated + len(updates))

    def take(self) -> Measured | None:
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


class Table:
    """One side's table. Its updates and polls are measured; the rest goes to ``store`` directly."""

    def __init__(self, plan: Plan, side: Side, meter: Meter) -> None:
        self.side = side
        self.store = open_store(plan, side)
        self._meter = meter
        self._followed: set[int] = set()
        self._mirror: Mirror | None = None

    @contextmanager
    def mirrored(self) -> Iterator[None]:
        """Polls come from a mirror in this block, of the rooms that are followed."""
        with self.store.mirror(rooms=self._followed.__contains__) as mirror:
            self._mirror = mirror
            yield

    def follow(self, rooms: Iterable[int]) -> None:
        """To be called before the first write, so that the mirror sees all that becomes of a room."""
        self._followed.update(rooms)

    def forget(self, rooms: Iterable[int]) -> None:
        self._followed.difference_update(rooms)

    def update(self, statuses: Mapping[int, KVPoll]) -> dict[int, Update]:
        with self._meter.update() as updates:
            answer = self.store.update_many(statuses)
            updates += answer.values()
        return answer

    def timed(self) -> AbstractContextManager[list[Update]]:
        """A block whose time is that of an update; it puts what came of it into the list."""
        return self._meter.update()

    def poll(self, rooms: Sequence[int]) -> list[KVPoll | None]:
        """What the mirror says; a call is made beside it, so that both ways can be compared.

        While the mirror is not current, the call's answer counts.
        """
        assert self._mirror is not None  # noqa: S101 - only rooms of the own side are polled
        with self._meter.look():
            seen = self._mirror.poll(rooms)
            synced = self._mirror.synced
        with self._meter.poll():
            polled = self.store.poll(rooms)
        self._meter.compare(seen, polled, synced)
        return seen if synced else polled
