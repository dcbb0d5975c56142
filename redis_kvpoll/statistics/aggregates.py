"""The statistics of one namespace: its shards, the totals, and what is read beside the feed.

Invariant: the lock is held for every change and for every reading. The follower changes them; any thread may read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from heapq import merge, nlargest, nsmallest
from itertools import islice
from typing import Any

from redis_kvpoll.model import KVPoll, Owner
from redis_kvpoll.protocol import keys, refused_writes
from redis_kvpoll.protocol.refused_writes import RefusedWrites
from redis_kvpoll.protocol.settings import Settings
from redis_kvpoll.statistics.model import LIVE, REFUSED, FeedState, RoomRow, Second, Snapshot
from redis_kvpoll.statistics.owner_names import OwnerNames
from redis_kvpoll.statistics.records import Record
from redis_kvpoll.statistics.shard import ShardStatistics
from redis_kvpoll.statistics.totals import Totals

_NEVER_MS = 2**62
STALE_AFTER = 5.0
"""Seconds after the last reading of the feed's end, from which on the statistics are not synced."""


class Aggregates:
    """What is known of a namespace. ``lock`` and every ``now`` (seconds of a monotonic clock) come from outside."""

    def __init__(self, namespace: str, stuck_after: float, lock: AbstractContextManager[Any]) -> None:
        self.namespace = namespace
        self.lock = lock
        self.totals = Totals()
        self.shards: dict[str, ShardStatistics] = {}
        self.feeds: dict[str, FeedState] = {}
        self.owners: Sequence[Owner] = ()
        self.refused: dict[str, RefusedWrites] = {}
        self.data_began_at: float | None = None
        self.has_feed, self.feed_length = True, 0
        self.error: str | None = None
        self.is_connected = False
        self._stuck_after = stuck_after
        self._names = OwnerNames()
        self._owner_rooms: Counter[int] = Counter()
        self._tail_seen_at = -math.inf
        self._server_ms, self._server_ms_at = 0, 0.0

    def begin(self, settings: Settings) -> None:
        """The namespace's settings are known."""
        self.has_feed, self.feed_length = settings.feed_length > 0, settings.feed_length
        for tag in keys.tags(self.namespace, settings.shards):
            self.shards[tag] = ShardStatistics(self.totals, self._names, self._owner_rooms)

    def server_time(self, at_ms: int, now: float) -> None:
        """Take the time of the server, as of ``now``."""
        self._server_ms, self._server_ms_at = at_ms, now

    def now_ms(self, now: float) -> int:
        """Return the time of the server; 0 before it is known."""
        return self._server_ms + round((now - self._server_ms_at) * 1000) if self._server_ms else 0

    def end_round(self, now: float) -> None:
        """Everything was read, except what is not walked."""
        self.error = None
        if self.is_walked:
            self._tail_seen_at = now
        for shard in self.shards.values():
            shard.settle_failures(self.now_ms(now))

    @property
    def is_walked(self) -> bool:
        return bool(self.shards) and all(shard.is_walked for shard in self.shards.values())

    def is_synced(self, now: float) -> bool:
        lag, most = now - self._tail_seen_at, STALE_AFTER if self.has_feed else math.inf
        return self.is_connected and self.is_walked and lag < most

    # Reading

    def snapshot(self, now: float) -> Snapshot:
        """Return everything as of ``now``."""
        with self.lock:
            # What was read is true as of the last reading: an age does not grow while the server is away. While it is
            # synced that is when the tail was seen, from which the lag counts, though another round may have begun.
            is_synced = self.is_synced(now)
            at_ms = self.now_ms(self._tail_seen_at if is_synced else max(self._server_ms_at, self._tail_seen_at))
            shards, totals = list(self.shards.values()), self.totals
            before_ms = at_ms - round(self._stuck_after * 1000)
            refused = refused_writes.merge(self.refused.values())
            return Snapshot(
                namespace=self.namespace,
                at=at_ms / 1000,
                synced=is_synced,
                lag_seconds=now - self._tail_seen_at,
                error=self.error,
                walked=None if self.is_walked else sum(shard.walked for shard in shards),
                resyncs=totals.resyncs,
                gaps=totals.gaps,
                has_feed=self.has_feed,
                counts={status: sum(shard.rooms.counts[status] for shard in shards) for status in KVPoll},
                oldest={status: self._oldest(status, at_ms) for status in LIVE},
                stuck_after=self._stuck_after,
                stuck={status: sum(shard.rooms.stuck(status, before_ms) for shard in shards) for status in LIVE},
                expiring=sum(shard.rooms.expiring(at_ms) for shard in shards),
                transitions=totals.transitions(),
                failures=totals.failures(),
                reasons=totals.reasons(at_ms),
                refused={outcome: refused.counts.get(outcome, 0) for outcome in REFUSED},
                refused_since=refused.since,
                last_refused=refused.last,
                refusals_seen=totals.refusals(),
                data_began_at=self.data_began_at,
                status_durations={status: each.histogram() for status, each in totals.status_durations.items()},
                room_durations={status: each.histogram() for status, each in totals.room_durations.items()},
                rates=totals.rates(at_ms),
                feeds=tuple(self.feeds.values()),
                owners=self._listed_owners(),
            )

    def _oldest(self, status: KVPoll, at_ms: int) -> float | None:
        since = [ms for shard in self.shards.values() if (ms := shard.rooms.oldest_ms(status)) is not None]
        return max(0, at_ms - min(since)) / 1000 if since else None

    def _listed_owners(self) -> tuple[Owner, ...]:
        """The leases, each with the live rooms created under it; a name's rooms are its newest lease's."""
        newest: dict[str, int] = {}
        for owner in self.owners:
            newest[owner.name] = max(owner.incarnation, newest.get(owner.name, 0))
        return tuple(
            replace(owner, rooms=self.owner_rooms(owner.name) if owner.incarnation == newest[owner.name] else 0)
            for owner in self.owners
        )

    def owner_rooms(self, name: str) -> int:
        """The live rooms that were created under an owner's leases."""
        return self._owner_rooms[self._names.find(name)]

    def seconds(self, now: float, count: int) -> list[Second]:
        """The last seconds, the oldest first."""
        with self.lock:
            return list(self.totals.seconds(self.now_ms(now), count))

    def rows(
        self, now: float, statuses: Sequence[KVPoll], longer_than: float, owner: str | None, limit: int
    ) -> list[RoomRow]:
        """Return rooms at some statuses, those whose last change is the longest ago first."""
        with self.lock:
            number = None if owner is None else self._names.find(owner)
            if number == 0:
                return []
            # The server's time is known to a round trip, so a change may seem to be yet to come.
            before_ms = self.now_ms(now) - round(longer_than * 1000) if longer_than else _NEVER_MS
            found = merge(
                *(
                    self._first(shard, status, before_ms, number, limit)
                    for shard in self.shards.values()
                    for status in set(statuses)
                ),
                key=_since_ms,
            )
            return self._rows(islice(found, limit), now)

    def count(self, now: float, statuses: Sequence[KVPoll], longer_than: float) -> int:
        """Return how many rooms are at some statuses whose last change is so long ago."""
        with self.lock:
            before_ms = self.now_ms(now) - round(longer_than * 1000)
            return sum(
                self._count_of(shard, status, before_ms) if longer_than else shard.rooms.counts[status]
                for shard in self.shards.values()
                for status in set(statuses)
            )

    def latest(self, now: float, status: KVPoll, limit: int) -> list[RoomRow]:
        """Return the rooms that got a status last, the newest first."""
        with self.lock:
            every = (each for shard in self.shards.values() for each in shard.rooms.at(status))
            return self._rows(nlargest(limit, every, key=_since_ms), now)

    @staticmethod
    def _first(
        shard: ShardStatistics, status: KVPoll, before_ms: int, owner: int | None, limit: int
    ) -> Iterable[tuple[int, Record]]:
        """The oldest rooms of a shard at a status: all live ones, and no more of the ended than ``limit``.

        Ended rooms are in no order, and may be a million: a list of them would take hundreds of megabytes.
        """
        is_live = status in LIVE
        found = shard.rooms.oldest_first(status, before_ms) if is_live else shard.rooms.at(status)
        chosen = (each for each in found if each[1].since_ms < before_ms and owner in (None, each[1].owner))
        return chosen if is_live else nsmallest(limit, chosen, key=_since_ms)

    @staticmethod
    def _count_of(shard: ShardStatistics, status: KVPoll, before_ms: int) -> int:
        if status in LIVE:
            return shard.rooms.stuck(status, before_ms)
        return sum(record.since_ms < before_ms for _, record in shard.rooms.at(status))

    def _rows(self, found: Iterable[tuple[int, Record]], now: float) -> list[RoomRow]:
        now_ms = self.now_ms(now)
        return [
            RoomRow(
                room,
                record.status,
                record.since_ms / 1000,
                record.opened_ms / 1000,
                max(0, record.due_ms - now_ms) / 1000 if record.due_ms else math.inf,
                self._names.name(record.owner),
            )
            for room, record in found
        ]


def _since_ms(found: tuple[int, Record]) -> int:
    return found[1].since_ms
