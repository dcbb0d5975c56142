"""Checks both tables from outside: the rooms that killed workers left behind, and rooms that should not exist."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from redis_kvpoll.replay.fault_plan import SIDES, Side
from redis_kvpoll.replay.ledger import Ledger
from redis_kvpoll.replay.messages import Plan
from redis_kvpoll.replay.pacing import SILENT_SECONDS
from redis_kvpoll.replay.report import UNKNOWN
from redis_kvpoll.replay.side_table import open_store

CHECK_SECONDS = 0.1
"""The time between two checks of killed workers' live rooms."""

LEASE_SLACK_SECONDS = 2.0
"""The time beyond its lease in which a killed worker's room may be live: two sweeps must find the lease expired."""
SWEEPS = 6
"""How many sweeps of one other worker after a lease's end must leave a room live before it counts as overdue. Four
heartbeats suffice to fail it; the last one before the end is counted, too, and the room is failed after its sweep."""

TTL_SLACK_SECONDS = 1.0
"""The time beyond its TTL in which an orphan may exist: Redis expires lazily, and the checks have intervals."""


@dataclass(slots=True)
class Orphan:
    """A live room of a killed worker."""

    killed_at: float
    heartbeats: dict[str, float] = field(default_factory=dict)
    """The last heartbeat of each other worker, seen since the lease expired."""
    sweeps: Counter[str] = field(default_factory=Counter)
    """The sweeps that each of them made since then: one with each heartbeat."""

    def saw(self, heartbeats: dict[str, float]) -> None:
        for owner, at in heartbeats.items():
            if self.heartbeats.get(owner) != at:
                self.heartbeats[owner] = at
                self.sweeps[owner] += 1

    @property
    def had_sweeps(self) -> bool:
        """Whether other workers had the turns that they need to fail this room."""
        return max(self.sweeps.values(), default=0) >= SWEEPS


class Sweep:
    """The rooms that no worker will clear. It reads the tables itself, and does not rely on what workers report."""

    def __init__(self, plan: Plan) -> None:
        self._ttl = plan.ttl
        self._tables = {side: open_store(plan, side) for side in SIDES}
        self._strays: dict[Side, set[int]] = {side: set() for side in SIDES}
        """Rooms without a request, as the last check found them."""
        self._leaked: dict[Side, set[int]] = {side: set() for side in SIDES}
        """Rooms that nothing explains."""
        self._expiring: dict[Side, set[int]] = {side: set() for side in SIDES}
        """Orphans that must expire before the replay ends."""
        self._give_up_at = 0.0
        self._lease = plan.lease
        self._live: dict[Side, dict[int, Orphan]] = {side: {} for side in SIDES}
        self._check_at = 0.0
        self._heartbeats: dict[Side, dict[str, float]] = {side: {} for side in SIDES}
        self._heartbeat_at = time.monotonic()
        self.orphaned = 0
        self.oldest = 0.0
        """The longest time in seconds that a room stayed live after its worker was killed."""
        self.past_lease = 0
        """The rooms that stayed live for too long."""

    def add_orphans(self, side: Side, rooms: list[int]) -> None:
        """A worker with these rooms was killed: count those that exist."""
        statuses = self._tables[side].poll(rooms)
        self.orphaned += sum(status is not None for status in statuses)
        if self._lease is not None:
            # Also those that do not exist: a write of the killed worker, still on its way, may create them.
            now = time.monotonic()
            if not self.has_live_orphans():
                self._heartbeat_at = now
            self._live[side] |= {room: Orphan(now) for room in rooms}

    def check_orphans(self, now: float) -> None:
        """Measure how long the rooms of killed workers stay live."""
        if self._lease is None or now < self._check_at:
            return
        self._check_at = now + CHECK_SECONDS
        for side, rooms in self._live.items():
            heartbeats = self._read_heartbeats(side, now) if rooms else {}
            for room, status in zip(list(rooms), self._tables[side].poll(rooms), strict=True):
                orphan, age = rooms[room], now - rooms[room].killed_at
                if status is not None and not status.is_terminal:
                    self.oldest = max(self.oldest, age)
                    if age > self._lease:
                        orphan.saw(heartbeats)
                    if age > self._lease + LEASE_SLACK_SECONDS and orphan.had_sweeps:
                        self.past_lease += 1
                        del rooms[room]
                elif age > CHECK_SECONDS * 2:
                    del rooms[room]

    def _read_heartbeats(self, side: Side, now: float) -> dict[str, float]:
        """The last heartbeat of each owner, read before the rooms: what its sweep did shows in them, or in the next."""
        heartbeats = {owner.name: owner.last_heartbeat_at for owner in self._tables[side].owners()}
        if heartbeats != self._heartbeats[side]:
            self._heartbeats[side], self._heartbeat_at = heartbeats, now
        return heartbeats

    def is_silent(self, now: float) -> bool:
        """Whether rooms of killed workers are live, and no other worker gets the CPU to renew its lease."""
        return self.has_live_orphans() and now - self._heartbeat_at > SILENT_SECONDS

    def has_live_orphans(self) -> bool:
        """Whether rooms of killed workers may still be live."""
        return any(self._live.values())

    def check_leaks(self, ledger: Ledger) -> None:
        """Find rooms without a request. Two checks in a row must find them, since a clear may be under way.

        Call it more than once within a room's TTL, or a leak may expire unseen.
        """
        recreated = {(side, room) for side, room, _ in ledger.recreated()}
        for side, table in self._tables.items():
            strays = {
                room
                for room in table.rooms()
                if room not in ledger.running and room not in ledger.orphans[side] and (side, room) not in recreated
            }
            self._leaked[side] |= strays & self._strays[side]
            self._strays[side] = strays

    def start_final_check(self, ledger: Ledger) -> None:
        """All requests have ended: from now on orphans expire, and no other room may exist."""
        self._give_up_at = time.monotonic() + self._ttl + TTL_SLACK_SECONDS
        self.check_leaks(ledger)
        for side in SIDES:
            self._leaked[side] |= self._strays[side]
            # All of them: a write of a killed worker may have created a room after it was counted.
            self._expiring[side] = set(ledger.orphans[side])

    def awaits_expiry(self, now: float) -> bool:
        """Whether orphans exist that still have time to expire."""
        for side, rooms in self._expiring.items():
            statuses = self._tables[side].poll(rooms)
            self._expiring[side] = {r for r, status in zip(rooms, statuses, strict=True) if status is not None}
        return self.past_ttl > 0 and now < self._give_up_at

    @property
    def past_ttl(self) -> int:
        """The number of orphans that still exist."""
        return sum(len(rooms) for rooms in self._expiring.values())

    def leaked(self, ledger: Ledger) -> dict[str, int]:
        """Rooms that exist after their clear, by the status that created them again, or UNKNOWN."""
        recreated = ledger.recreated()
        leaked = Counter(status.name for _, _, status in recreated)
        # A check may have found such a room before its worker reported the message.
        explained = {(side, room) for side, room, _ in recreated}
        if unknown := sum((side, room) not in explained for side, rooms in self._leaked.items() for room in rooms):
            leaked[UNKNOWN] = unknown
        return dict(leaked)

    def close(self) -> None:
        for table in self._tables.values():
            table.close()
