"""The two tables of a replay, and how long calls to them take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from redis_kvpoll.delivery import DEFAULT_DEADLINE
from redis_kvpoll.replay.hazards import Side
from redis_kvpoll.replay.messages import Measured, Plan
from redis_kvpoll.status import KVPoll, Outcome, Update
from redis_kvpoll.store import StatusStore


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
        self._measured = Measured([], [], 0, 0, Counter())

    @contextmanager
    def poll(self, rooms: int) -> Iterator[None]:
        with self._timed(self._measured.polls):
            yield
        self._measured = self._measured._replace(rooms_polled=self._measured.rooms_polled + rooms)

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
        self._measured = Measured([], [], 0, 0, Counter[Outcome]())
        return taken

    @contextmanager
    def _timed(self, durations: list[float]) -> Iterator[None]:
        started = time.perf_counter()
        yield
        durations.append(time.perf_counter() - started)


class Table:
    """One side's table. Its updates and polls are measured; the rest goes to ``store`` directly."""

    def __init__(self, plan: Plan, side: Side, meter: Meter) -> None:
        self.side = side
        self.store = open_store(plan, side)
        self._meter = meter

    def update(self, statuses: Mapping[int, KVPoll]) -> dict[int, Update]:
        with self._meter.update() as updates:
            answer = self.store.update_many(statuses)
            updates += answer.values()
        return answer

    def abort(self, room: int, reason: str) -> None:
        with self._meter.update() as updates:
            updates.append(self.store.abort(room, reason))

    def poll(self, rooms: Sequence[int]) -> list[KVPoll | None]:
        with self._meter.poll(len(rooms)):
            return self.store.poll(rooms)
