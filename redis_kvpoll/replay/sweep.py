"""A look at both tables from outside: what killed workers left behind, and what is there that should not be."""

from __future__ import annotations

import time
from collections import Counter

from redis_kvpoll.replay.fault_plan import SIDES, Side
from redis_kvpoll.replay.ledger import Ledger
from redis_kvpoll.replay.messages import Plan
from redis_kvpoll.replay.report import UNKNOWN
from redis_kvpoll.replay.tables import open_store

WATCH_SECONDS = 0.1
"""Between two looks at what killed workers have just left behind."""

LEASE_SLACK_SECONDS = 2.0
"""Beyond a lease, before a live room of a killed worker is said to have outlived it: others look twice."""

SLACK_SECONDS = 1.0
"""Beyond the TTL, before an orphan is said to have outlived it: Redis expires lazily, and we look now and then."""


class Sweep:
    """The rooms that nobody will clear. It trusts what it sees, not what the scripts answered to the workers."""

    def __init__(self, plan: Plan) -> None:
        self._ttl = plan.ttl
        self._tables = {side: open_store(plan, side) for side in SIDES}
        self._suspects: dict[Side, set[int]] = {side: set() for side in SIDES}
        self._unknown: dict[Side, set[int]] = {side: set() for side in SIDES}
        self._waiting: dict[Side, set[int]] = {side: set() for side in SIDES}
        self._give_up_at = 0.0
        self._lease = plan.lease
        self._live: dict[Side, dict[int, float]] = {side: {} for side in SIDES}
        """Of the rooms that killed workers left behind alive, since when."""
        self._watch_at = 0.0
        self.orphaned = 0
        self.oldest = 0.0
        """The longest time in seconds that a room stayed alive after its worker was killed."""
        self.past_lease = 0
        """The rooms that did so for too long."""

    def bury(self, side: Side, rooms: list[int]) -> None:
        """A worker was killed with these rooms on it; count those that it leaves behind."""
        statuses = self._tables[side].poll(rooms)
        self.orphaned += sum(status is not None for status in statuses)
        if self._lease is not None:
            # Also those that a write of the killed worker, still on its way, is yet to create.
            self._live[side] |= dict.fromkeys(rooms, time.monotonic())

    def watch(self, now: float) -> None:
        """See how long the rooms of killed workers stay alive."""
        if self._lease is None or now < self._watch_at:
            return
        self._watch_at = now + WATCH_SECONDS
        for side, rooms in self._live.items():
            for room, status in zip(list(rooms), self._tables[side].poll(rooms), strict=True):
                age = now - rooms[room]
                if status is not None and not status.is_terminal:
                    self.oldest = max(self.oldest, age)
                    if age > self._lease + LEASE_SLACK_SECONDS:
                        self.past_lease += 1
                        del rooms[room]
                elif age > WATCH_SECONDS * 2:
                    del rooms[room]

    def is_watching(self) -> bool:
        """Whether there are such rooms."""
        return any(self._live.values())

    def patrol(self, ledger: Ledger) -> None:
        """Look for rooms without a request. Seen in two looks running they are leaks: clears are not that slow.

        To be called more often than a room's TTL is long, or a leak may expire unseen.
        """
        revived = {(side, room) for side, room, _ in ledger.revived()}
        for side, table in self._tables.items():
            strays = {
                room
                for room in table.rooms()
                if room not in ledger.in_flight and room not in ledger.orphans[side] and (side, room) not in revived
            }
            self._unknown[side] |= strays & self._suspects[side]
            self._suspects[side] = strays

    def begin(self, ledger: Ledger) -> None:
        """All requests are over: from now on nothing keeps an orphan alive, and nothing else should be there."""
        self._give_up_at = time.monotonic() + self._ttl + SLACK_SECONDS
        self.patrol(ledger)
        for side in SIDES:
            self._unknown[side] |= self._suspects[side]
            # Also those that a killed worker's last words, still on their way then, have written since.
            self._waiting[side] = set(ledger.orphans[side])

    def is_waiting(self, now: float) -> bool:
        """Whether there are orphans left, and time for them to expire."""
        for side, rooms in self._waiting.items():
            statuses = self._tables[side].poll(rooms)
            self._waiting[side] = {r for r, status in zip(rooms, statuses, strict=True) if status is not None}
        return self.past_ttl > 0 and now < self._give_up_at

    @property
    def past_ttl(self) -> int:
        """The orphans that are still there."""
        return sum(len(rooms) for rooms in self._waiting.values())

    def leaked(self, ledger: Ledger) -> dict[str, int]:
        """Rooms brought back after their clear, by the status that did it; and those that nothing explains."""
        leaked = Counter(status.name for _, _, status in ledger.revived())
        if unknown := sum(len(rooms) for rooms in self._unknown.values()):
            leaked[UNKNOWN] = unknown
        return dict(leaked)

    def close(self) -> None:
        for table in self._tables.values():
            table.close()
