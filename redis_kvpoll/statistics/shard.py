"""The statistics of one shard: what each fact about a room changes in its rooms and in the totals.

Facts come in the order of the feed's ids: an entry by itself, a read of rooms after the entries up to its position. So
the newest fact is the last one, and no room needs an id.

A room's former status is known if the room is confirmed: then its change counts as a transition, and its time there as
a duration if its beginning was seen, too. Else (the walk has not come to it yet) only its record is set.

Invariant: each confirmed room has the status that the server had at the position of the feed up to which it was read,
except that a room which expired is found at the next look at the rooms that are due.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol.feed import STATUSES, Opening, decode_reason, parse_entry
from redis_kvpoll.protocol.feed_ids import milliseconds_of
from redis_kvpoll.protocol.replies import parse_status
from redis_kvpoll.protocol.rows import WIDTH, milliseconds
from redis_kvpoll.statistics.model import ABSENT, CLEARED, EXPIRED, LIVE
from redis_kvpoll.statistics.owner_names import OwnerNames
from redis_kvpoll.statistics.records import OPENING_SEEN, SINCE_SEEN, Record, Rooms
from redis_kvpoll.statistics.totals import Totals

REASON_WAIT_MS = 2000
"""For so long a failure without a reason waits for one, which may come in a later entry."""
MICROSECONDS_DIGITS = 16
"""Of a generation that is a time."""
RESTORED_AFTER_MS = 1000
"""A room whose generation is so much older than the entry that tells its opening was restored after a loss of data."""


def opened_us(opening: Opening) -> int | None:
    """Return when a room was opened, in microseconds, by its generation; None if that is no time."""
    micros = opening.generation
    is_time = micros.isascii() and micros.isdecimal() and len(micros) == MICROSECONDS_DIGITS
    return int(micros) if is_time else None


class ShardStatistics:
    """The rooms of one shard, beside the totals of all."""

    def __init__(self, totals: Totals, owners: OwnerNames, owner_rooms: Counter[int]) -> None:
        self.rooms = Rooms(owner_rooms)
        self.is_walked = False
        """Whether all rooms are known."""
        self.walked = 0
        """Rooms that the current walk has met."""
        self._totals = totals
        self._owners = owners
        self._last_opened_us = 0
        """The generation of the last room that was opened, and not restored."""
        self.awaiting: dict[int, int] = {}
        """Rooms that failed without a reason, and when."""

    def begin_walk(self, stays_known: bool = False) -> None:
        """All rooms are read from now on. Those that were known stay until the end, but nothing follows from them.

        With ``stays_known`` they count as all rooms meanwhile.
        """
        self.is_walked = self.is_walked and stays_known
        self.rooms.begin_walk()
        for room in list(self.awaiting):
            self._settle(room, None)

    def end_walk(self) -> None:
        """All rooms were read."""
        self.rooms.end_walk()
        self.is_walked = True

    def entry(self, entry_id: bytes, fields: Sequence[bytes]) -> None:
        """Take the next entry of the feed."""
        openings: dict[int, Opening] = {}
        at_ms = milliseconds_of(entry_id)
        for at, (room, name, ttl, reason, _, _) in enumerate(parse_entry(fields, openings)):
            status = STATUSES[name]
            if status is None:
                self._cleared(room, at_ms)
            else:
                due_ms = None if ttl is None else at_ms + round(ttl * 1000)
                self._changed(room, status, at_ms, due_ms, openings.get(at), reason)

    def _changed(
        self, room: int, status: KVPoll, at_ms: int, due_ms: int | None, opening: Opening | None, reason: bytes | None
    ) -> None:
        before = self.rooms.get(room)
        if opening is not None:
            if not self._opened(room, before, status, at_ms, due_ms or 0, opening):
                return
            before = None
        elif before is not None and self.rooms.is_confirmed(before):
            record = before if due_ms is None else before._replace(due_ms=due_ms)
            if status is not before.status:
                self._left(room, before, status.name, at_ms)
                since_ms = max(at_ms, record.opened_ms)
                record = record._replace(status=status, since_ms=since_ms, flags=record.flags | SINCE_SEEN)
                self._reached(record)
            if record is not before:
                self.rooms.put(room, record)
        else:
            since_ms = before.since_ms if before is not None and before.status is status else at_ms
            opened_ms, owner = (before.opened_ms, before.owner) if before is not None else (at_ms, 0)
            self.rooms.put(room, Record(status, since_ms, opened_ms, due_ms or 0, owner))
            return
        self._failed(room, status, before, at_ms, reason)

    def _opened(
        self, room: int, before: Record | None, status: KVPoll, at_ms: int, due_ms: int, opening: Opening
    ) -> bool:
        """Take an entry that created a room. Returns whether the room is new, and not one that is back."""
        owner = self._owners.number(opening.owner) if opening.owner else 0
        is_known = before is not None and self.rooms.is_confirmed(before)
        opened_at_us = opened_us(opening)
        if opened_at_us is not None:
            if self._is_restored(opened_at_us, at_ms):
                record = Record(status, at_ms, opened_at_us // 1000, due_ms, owner)
                self._restored(room, before if is_known else None, record)
                return False
            self._last_opened_us = opened_at_us
        if before is not None and is_known:
            self._ended(room, before, at_ms)
        self._totals.transition(ABSENT, status.name, at_ms)
        self.rooms.put(room, Record(status, at_ms, at_ms, due_ms, owner, SINCE_SEEN | OPENING_SEEN))
        return True

    def _is_restored(self, opened_at_us: int, at_ms: int) -> bool:
        """Whether a room that an entry created is back after a loss of data, and was not opened now.

        While the clock is behind, the entry has the time of the feed's last one, and the room the next generation.
        """
        return opened_at_us // 1000 < at_ms - RESTORED_AFTER_MS and opened_at_us != self._last_opened_us + 1

    def _restored(self, room: int, before: Record | None, record: Record) -> None:
        """A room is back after a loss of data; ``before`` is what it was, if that is known. Nobody has opened it."""
        if before is not None and before.status is record.status:
            record = record._replace(since_ms=before.since_ms, flags=before.flags)
        elif before is not None:
            self._left(room, before, record.status.name, record.since_ms)
        self.rooms.put(room, record)

    def _ended(self, room: int, before: Record, at_ms: int) -> None:
        """A room was opened anew: the former one had expired, or it was Failed and was replaced."""
        if 0 < before.due_ms <= at_ms:
            self._left(room, before, EXPIRED, before.due_ms)
        else:
            self._left(room, before, CLEARED, at_ms)

    def _left(self, room: int, before: Record, after: str, at_ms: int) -> None:
        """A confirmed room has left its status."""
        self._totals.transition(before.status.name, after, at_ms)
        if before.status in LIVE and before.flags & SINCE_SEEN and after != EXPIRED:
            self._totals.status_durations[before.status].add(at_ms - before.since_ms)
        self._settle(room, None)

    def _reached(self, record: Record) -> None:
        if record.status.is_terminal and record.flags & OPENING_SEEN:
            self._totals.room_durations[record.status].add(record.since_ms - record.opened_ms)

    def _failed(self, room: int, status: KVPoll, before: Record | None, at_ms: int, reason: bytes | None) -> None:
        """Count a failure, when its reason is known."""
        if status is not KVPoll.Failed:
            return
        if before is None or before.status is not KVPoll.Failed:
            self.awaiting[room] = at_ms
        if reason is not None:
            self._settle(room, decode_reason(reason))

    def _settle(self, room: int, reason: str | None) -> None:
        failed_ms = self.awaiting.pop(room, None) if self.awaiting else None
        if failed_ms is not None:
            self._totals.failure(reason, failed_ms)

    def settle_failures(self, now_ms: int) -> None:
        """Count the failures whose reason has not come in time."""
        for room, failed_ms in list(self.awaiting.items()):
            if failed_ms > now_ms - REASON_WAIT_MS:
                break  # they are in the order of their times
            self._settle(room, None)

    def _cleared(self, room: int, at_ms: int) -> None:
        before = self.rooms.get(room)
        if before is None:
            return
        if self.rooms.is_confirmed(before):
            self._left(room, before, CLEARED, at_ms)
        self.rooms.drop(room)

    # Reads

    def read(self, rooms: Sequence[int], reply: Sequence[Any], now_ms: int) -> None:
        """Take a read of rooms, at the position of the feed up to which it was read."""
        for at, room in enumerate(rooms):
            self._read(room, reply[at * WIDTH : (at + 1) * WIDTH], now_ms)

    def _read(self, room: int, words: Sequence[Any], now_ms: int) -> None:
        status, left_ms = parse_status(words[0]), words[1]
        before = self.rooms.get(room)
        is_known = before is not None and self.rooms.is_confirmed(before)
        if status is None:
            if before is not None:
                if is_known:
                    self._left(room, before, EXPIRED, min(before.due_ms or now_ms, now_ms))
                self.rooms.drop(room)
            return
        due_ms = now_ms + left_ms if left_ms >= 0 else 0
        updated_ms = min(milliseconds(words[3]) or now_ms, now_ms)
        opened_ms = min(milliseconds(words[2]) or updated_ms, updated_ms)
        owner = self._owners.number(words[4].decode("utf-8", "replace")) if words[4] else 0
        if before is not None and is_known and before.status is status:
            record = before._replace(due_ms=due_ms)
            if not before.flags & SINCE_SEEN:  # the entry of a restored room has the time at which it was restored
                record = record._replace(since_ms=min(updated_ms, before.since_ms))
            if not before.flags & OPENING_SEEN:  # an entry that was read before the walk came here does not name it
                record = record._replace(opened_ms=min(opened_ms, record.since_ms), owner=owner)
            self.rooms.put(room, record)
            return
        self.rooms.put(room, Record(status, updated_ms, opened_ms, due_ms, owner))
