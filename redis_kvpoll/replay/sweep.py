"""A look at both tables from outside: what killed workers left behind, and what is there that should not be."""

from __future__ import annotations

import time
from collections import Counter

from redis_kvpoll.replay.hazards import SIDES, Side
from redis_kvpoll.replay.ledger import Ledger
from redis_kvpoll.replay.messages import Plan
from redis_kvpoll.replay.report import UNKNOWN
from redis_kvpoll.replay.tables import open_store

SLACK_SECONDS = 1.0
"""Beyond the TTL, before an orphan is said to have outlived it: Redis expires lazily, and we look now and then."""


class Sweep:
    """The rooms that nobody will clear."""

    def __init__(self, plan: Plan) -> None:
        self._ttl = plan.ttl
        self._tables = {side: open_store(plan, side) for side in SIDES}
        self._waiting: dict[Side, set[int]] = {side: set() for side in SIDES}
        self._unknown = 0
        self._give_up_at = 0.0
        self.orphaned = 0

    def bury(self, side: Side, rooms: list[int]) -> None:
        """A worker was killed with these rooms on it; count those that it leaves behind."""
        left = [room for room, status in zip(rooms, self._tables[side].poll(rooms), strict=True) if status is not None]
        self.orphaned += len(left)
        self._waiting[side] |= set(left)

    def begin(self, ledger: Ledger) -> None:
        """All requests are over: from now on nothing keeps an orphan alive, and nothing else should be there.

        What the workers' own answers tell of leaks is complete; this look from outside finds only those of the last
        TTL, which have not expired yet.
        """
        self._give_up_at = time.monotonic() + self._ttl + SLACK_SECONDS
        revived = {(side, room) for side, room, _ in ledger.revived()}
        for side, table in self._tables.items():
            explained = self._waiting[side] | {room for table_side, room in revived if table_side == side}
            self._unknown += len(set(table.rooms()) - explained - ledger.orphans[side])

    def is_waiting(self) -> bool:
        """Whether there are orphans left, and time for them to expire."""
        for side, rooms in self._waiting.items():
            statuses = self._tables[side].poll(rooms)
            self._waiting[side] = {r for r, status in zip(rooms, statuses, strict=True) if status is not None}
        return self.past_ttl > 0 and time.monotonic() < self._give_up_at

    @property
    def past_ttl(self) -> int:
        """The orphans that are still there."""
        return sum(len(rooms) for rooms in self._waiting.values())

    def leaked(self, ledger: Ledger) -> dict[str, int]:
        """Rooms brought back after their clear, by the status that did it; and those that nothing explains."""
        leaked = Counter(status.name for _, _, status in ledger.revived())
        if self._unknown:
            leaked[UNKNOWN] = self._unknown
        return dict(leaked)

    def close(self) -> None:
        for table in self._tables.values():
            table.close()
