"""The rooms of one shard, in about 180 bytes each, and what is counted about them.

Invariant: a room is counted once, by its record. What is counted by time is in buckets of a second: a bucket may name
rooms that have moved on, since nothing is removed from it, and ends with the last room that counts there. So a change
costs the same however many rooms there are, and a number costs the seconds in which there are rooms, not the rooms.
Times are milliseconds of the server.
"""

from __future__ import annotations

import heapq
import struct
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from redis_kvpoll.model import KVPoll
from redis_kvpoll.statistics.model import LIVE

CONFIRMED, SINCE_SEEN, OPENING_SEEN = 3, 4, 8
"""Flags of a record. CONFIRMED, two bits: the walk in which it was seen, or since which it was in the feed; walks are 1
and 2 in turn. SINCE_SEEN, OPENING_SEEN: that moment was seen in the feed."""
ASK_AGAIN_MS = 5000
"""After which a room that was due and asked for is due again, if no answer came."""
EXPIRING_MS = 60_000
FEW = 1000
"""Changes in one second that are looked at one by one for a number that is exact to a millisecond."""

_PACKED = struct.Struct("<QIIIIBB")
_STATUS_AT = -2
"""The byte of a packed record that is its status."""
_MOST = 2**32 - 1
_LAST_MS = (_MOST - 1) * 1000
"""The last time that a record can keep: in 2106. A TTL ends at most _MOST milliseconds, 49 days, after the change."""
_LIVE = frozenset(LIVE)


class Record(NamedTuple):
    """What is kept of a room."""

    status: KVPoll
    since_ms: int
    opened_ms: int
    due_ms: int
    """When its TTL ends; 0 if it has none."""
    owner: int = 0
    """Its number in OwnerNames; 0 for none."""
    flags: int = 0


class _Changes:
    """The rooms that got a status in one second."""

    __slots__ = ("count", "rooms")

    def __init__(self) -> None:
        self.count = 0
        self.rooms = array("Q")


class Rooms:
    """The rooms of one shard. ``owner_rooms`` counts the live rooms of each owner, for all shards together."""

    def __init__(self, owner_rooms: Counter[int]) -> None:
        self.counts = [0] * len(KVPoll)
        self._owner_rooms = owner_rooms
        self._packed: dict[int, bytes] = {}
        self._buckets: dict[KVPoll, dict[int, _Changes]] = {status: {} for status in LIVE}
        self._live_due: dict[int, int] = {}
        """How many live rooms are due in each second."""
        self._due: dict[int, array[int]] = {}
        """The rooms to look at in each second; a room counts in the second that its record has as ``scheduled``."""
        self._due_seconds: list[int] = []
        self._walk, self._is_walking = 1, False

    def __len__(self) -> int:
        return len(self._packed)

    def get(self, room: int) -> Record | None:
        packed = self._packed.get(room)
        return None if packed is None else _unpack(packed)[0]

    def is_confirmed(self, record: Record) -> bool:
        """Whether the record was seen in the current walk, or since it began."""
        return record.flags & CONFIRMED == self._walk

    def put(self, room: int, record: Record) -> None:
        """Set the record of a room, which is thereby confirmed. What was written by hand may have any time."""
        record = _bounded(record)
        packed, scheduled, former = self._packed.get(room), 0, None
        if packed is not None:
            former, scheduled = _unpack(packed)
            self._uncount(former)
        self._count(room, record, former)
        if record.due_ms and (not scheduled or record.due_ms // 1000 + 1 < scheduled):
            scheduled = self._schedule(room, record.due_ms)
        flags = record.flags & ~CONFIRMED | self._walk
        self._packed[room] = _pack(record._replace(flags=flags), scheduled)

    def drop(self, room: int) -> None:
        """Remove a room."""
        if (packed := self._packed.pop(room, None)) is not None:
            self._uncount(_unpack(packed)[0])

    # Walks

    def begin_walk(self) -> None:
        """Let no record be confirmed, until it is put again."""
        if self._is_walking:  # the last walk has not come to its end, so there are records of both numbers
            for room, packed in self._packed.items():
                self._packed[room] = packed[:-1] + bytes([packed[-1] & ~CONFIRMED])
        self._walk, self._is_walking = 3 - self._walk, True

    def end_walk(self) -> None:
        """Drop the rooms that were not confirmed since the walk began: they are gone."""
        self._is_walking = False
        gone = [room for room, packed in self._packed.items() if packed[-1] & CONFIRMED != self._walk]
        for room in gone:
            self.drop(room)

    # Numbers

    def oldest_ms(self, status: KVPoll) -> int | None:
        """Since when the room with the oldest change to a live status has it; to a second if more than FEW have."""
        buckets = self._buckets[status]
        if not buckets:
            return None
        second = min(buckets)
        if len(buckets[second].rooms) > FEW:
            return second * 1000
        return min(record.since_ms for _, record in self._in(status, second))

    def stuck(self, status: KVPoll, before_ms: int) -> int:
        """How many rooms have a live status since before a time; to a second if more than FEW have it since then."""
        border, buckets = before_ms // 1000, self._buckets[status]
        whole = sum(bucket.count for second, bucket in buckets.items() if second < border)
        if border in buckets and len(buckets[border].rooms) > FEW:
            return whole
        return whole + sum(record.since_ms < before_ms for _, record in self._in(status, border))

    def expiring(self, now_ms: int) -> int:
        """How many live rooms are due within EXPIRING_MS, to a second."""
        last = (now_ms + EXPIRING_MS) // 1000
        return sum(count for second, count in self._live_due.items() if second <= last)

    def oldest_first(self, status: KVPoll, before_ms: int) -> Iterator[tuple[int, Record]]:
        """The rooms that have a live status since before a time, the oldest second first."""
        for second in sorted(second for second in self._buckets[status] if second * 1000 < before_ms):
            of_second = [(room, record) for room, record in self._in(status, second) if record.since_ms < before_ms]
            yield from sorted(of_second, key=lambda found: found[1].since_ms)

    def all(self) -> Iterator[tuple[int, Record]]:
        """All rooms, in no order."""
        for room, packed in self._packed.items():
            yield room, _unpack(packed)[0]

    def at(self, status: KVPoll) -> Iterator[tuple[int, Record]]:
        """The rooms at a status, in no order."""
        for room, packed in self._packed.items():
            if packed[_STATUS_AT] == status:
                yield room, _unpack(packed)[0]

    def due(self, now_ms: int, limit: int) -> list[int]:
        """Return up to ``limit`` rooms whose TTL has ended. They are due again in ASK_AGAIN_MS, until they are put or
        dropped."""
        found: list[int] = []
        while self._due_seconds and self._due_seconds[0] * 1000 <= now_ms and len(found) < limit:
            second = self._due_seconds[0]
            rooms = self._due[second]
            while rooms and len(found) < limit:
                if self._is_due(room := rooms.pop(), second, now_ms):
                    found.append(room)
            if not rooms:
                del self._due[heapq.heappop(self._due_seconds)]
        return found

    def _is_due(self, room: int, second: int, now_ms: int) -> bool:
        packed = self._packed.get(room)
        if packed is None:
            return False
        record, scheduled = _unpack(packed)
        if scheduled != second:  # it was scheduled anew
            return False
        is_due = 0 < record.due_ms <= now_ms
        if is_due:
            scheduled = self._schedule(room, now_ms + ASK_AGAIN_MS)
        else:
            scheduled = self._schedule(room, record.due_ms) if record.due_ms else 0
        self._packed[room] = _pack(record, scheduled)
        return is_due

    def _schedule(self, room: int, at_ms: int) -> int:
        second = min(at_ms // 1000 + 1, _MOST)
        rooms = self._due.get(second)
        if rooms is None:
            rooms = self._due[second] = array("Q")
            heapq.heappush(self._due_seconds, second)
        rooms.append(room)
        return second

    def _in(self, status: KVPoll, second: int) -> Iterator[tuple[int, Record]]:
        """The rooms that have a live status since some moment of a second."""
        bucket = self._buckets[status].get(second)
        for room in set(bucket.rooms) if bucket else ():
            record = self.get(room)
            if record is not None and record.status is status and record.since_ms // 1000 == second:
                yield room, record

    def _count(self, room: int, record: Record, former: Record | None) -> None:
        status, second = record.status, record.since_ms // 1000
        self.counts[status] += 1
        if status not in _LIVE:
            return
        buckets = self._buckets[status]
        bucket = buckets.get(second)
        if bucket is None:
            bucket = buckets[second] = _Changes()
        bucket.count += 1
        is_in = former is not None and former.status is status and former.since_ms // 1000 == second
        if not is_in or len(bucket.rooms) == 0:
            bucket.rooms.append(room)
        if record.due_ms:
            due = record.due_ms // 1000
            self._live_due[due] = self._live_due.get(due, 0) + 1
        if record.owner:
            self._owner_rooms[record.owner] += 1

    def _uncount(self, record: Record) -> None:
        status = record.status
        self.counts[status] -= 1
        if status not in _LIVE:
            return
        buckets, second = self._buckets[status], record.since_ms // 1000
        bucket = buckets[second]
        bucket.count -= 1
        if not bucket.count:
            del buckets[second]
        if record.due_ms:
            due = record.due_ms // 1000
            self._live_due[due] -= 1
            if not self._live_due[due]:
                del self._live_due[due]
        if record.owner:
            self._owner_rooms[record.owner] -= 1


def _bounded(record: Record) -> Record:
    """Return a record as it will be unpacked, so that it leaves the buckets in which it was counted."""
    since_ms, due_ms = record.since_ms, record.due_ms
    if not 0 <= since_ms <= _LAST_MS:
        since_ms = min(max(since_ms, 0), _LAST_MS)
        record = record._replace(since_ms=since_ms)
    if due_ms and not 0 < due_ms - since_ms <= _MOST:
        record = record._replace(due_ms=since_ms + min(max(due_ms - since_ms, 1), _MOST))
    return record


def _pack(record: Record, scheduled: int) -> bytes:
    since_ms = record.since_ms
    opened = min(max(since_ms - record.opened_ms, 0), _MOST)
    left = min(max(record.due_ms - since_ms, 1), _MOST) if record.due_ms else 0
    return _PACKED.pack(since_ms, opened, left, record.owner, scheduled, record.status, record.flags)


def _unpack(packed: bytes) -> tuple[Record, int]:
    """Return a record, and the second at which the room is looked at."""
    since_ms, opened, left, owner, scheduled, status, flags = _PACKED.unpack(packed)
    due_ms = since_ms + left if left else 0
    return Record(_STATUSES[status], since_ms, since_ms - opened, due_ms, owner, flags), scheduled


_STATUSES = tuple(KVPoll)
