"""What is known of one shard: which news of a room is the newest, and who waits for it.

A shard's feed gives its history an order: of two things that were said of a room, the one with the higher id is newer.
There are three sources, and each may be late against the others: entries of the feed, which come in order; snapshots,
which are true at the last id that the feed had at that moment; and the replies to this process's own writes, which are
true at the id of the entry that they appended.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis_kvpoll.errors import KVPollError, RoomNotFoundError
from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol.replies import parse_status
from redis_kvpoll.protocol.script_call import NOT_REPORTED, Call
from redis_kvpoll.replica.expiry import Expiry

NOWHERE = -1
"""The position in a feed of which nothing is known; every id is beyond it."""


def number_of(feed_id: bytes) -> int:
    """A feed id (``ms-seq``) as one number, which compares as the ids do."""
    ms, _, seq = feed_id.partition(b"-")
    return int(ms) << 64 | int(seq)


def text_of(number: int) -> str:
    """The feed id as Redis writes it."""
    return f"{number >> 64}-{number & (1 << 64) - 1}"


class Waiter:
    """Somebody who waits for a room to get to one of the statuses ``goal``. ``wake`` is called once."""

    __slots__ = ("armed", "goal", "outcome", "room", "tag", "wake")

    def __init__(self, room: int, tag: str, goal: frozenset[KVPoll], wake: Callable[[], object]) -> None:
        self.room = room
        self.tag = tag
        self.goal = goal
        self.wake = wake
        self.armed = False
        """Whether the copy is new enough to decide by. A waiter for a room not known yet has it read first."""
        self.outcome: KVPoll | KVPollError | None = None

    def settle(self, outcome: KVPoll | KVPollError) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.wake()


class ShardReplica:
    """The newest that is known of the rooms of one shard. Whoever calls holds the replica's lock.

    ``statuses`` is shared with the other shards. ``is_relevant`` says which rooms are of interest; None takes those
    that are waited for, and no others. ``notify`` gets each change, once the feed has come to it. Times are seconds.
    """

    def __init__(
        self,
        statuses: dict[int, KVPoll],
        is_relevant: Callable[[int], bool] | None,
        notify: Callable[[int, KVPoll | None], object],
    ) -> None:
        self.waiters: dict[int, dict[Waiter, None]] = {}
        """In the order in which they came."""
        self.synced = False
        self.sync_epoch = 0
        """Grows with each fresh start. Ids of different rounds cannot be compared: the server may be another."""
        self.position = NOWHERE
        self.at_tail = float("-inf")
        """When there was last nothing more to read."""
        self.reached = float("-inf")
        """When this last was at the feed's end, be it only by beginning there: what comes is not older."""
        self.expiry = Expiry()
        self.only_waited = is_relevant is None
        self.is_relevant = self.waiters.__contains__ if is_relevant is None else is_relevant
        self._statuses = statuses
        self._notify_listener = notify
        self._ids: dict[int, int] = {}
        """Where in the feed the newest word on a room is from. Rooms found absent are in it until the feed has come
        to that id: earlier entries, which are still to come, must not bring them back."""
        self._ahead: list[tuple[int, int]] = []
        """A heap of (id, room): what is known ahead of the feed, and needs a look when that has come there."""
        self._unconfirmed: set[int] = set()
        self.uncertain: dict[int, int] = {}
        """Rooms that must be read, since what the feed has said of them at an id is not goal (see ranked.py)."""
        self._pending_notifications: dict[int, KVPoll | None] = {}
        """Rooms that an own write changed ahead of the feed, and what who listens was told of each last."""

    def start_resync(self, position: int) -> None:
        """Start afresh, at a position in what may be another feed. The statuses stay, as the last known."""
        self.sync_epoch += 1
        self.synced = False
        self.position = position
        self._unconfirmed.update(self._ids, self._pending_notifications)
        self._ids, self._ahead = {}, []
        if self.only_waited:
            self._unconfirmed.update(self.waiters)
            self._ids = dict.fromkeys(self.waiters, position)

    def unconfirmed(self) -> list[int]:
        """Rooms from before the fresh start of which nothing has been heard since."""
        return list(self._unconfirmed)

    def mark_synced(self) -> None:
        """All rooms are known and the end of the feed has been seen: from now on, what is here is what is there."""
        self.synced = True
        for room in list(self.waiters):
            self._evaluate(room)

    # News

    def read(self, entries: Iterable[tuple[bytes, Sequence[bytes]]], now: float) -> None:
        """Entries of the feed, in order, from the position on."""
        for name, fields in entries:
            at = number_of(name)
            if at > self.position:
                self._come_to(at - 1)
                self.position = at
                self._entry(at, fields, now)
                self._come_to(at)

    def snapshot(self, at: int, rooms: Sequence[int], reply: Sequence[Any], now: float) -> None:
        """Status and TTL of rooms, as they were at one moment; what has expired then is absent without an entry."""
        for room, name, left_ms in zip(rooms, reply[::2], reply[1::2], strict=True):
            if self.is_relevant(room) and at >= self._ids.get(room, self.position):
                status = parse_status(name)
                self._put(room, status, at)
                if status is not None and left_ms >= 0:
                    self.expiry.set(room, now + left_ms / 1000)
                else:
                    self.expiry.drop(room)

    def observe_write(self, at: int, call: Call, reply: Sequence[Any], now: float) -> None:
        """What a write of this process left; nothing that it says is older than its entry."""
        assert call.spec.statuses_after is not None  # noqa: S101 - it was looked at
        ttls = [int(ms) for name, ms in zip(call.spec.once, call.once, strict=True) if name.endswith("ttl_ms")]
        ttl = min(ttls, default=0) / 1000
        left = zip(call.rooms, call.spec.statuses_after(list(reply)), strict=True)
        statuses = {room: name for room, name in left if name is not NOT_REPORTED}
        for room, name in statuses.items():
            if self.is_relevant(room) and at > self._ids.get(room, self.position):
                status = parse_status(name)
                self._put(room, status, at, own=True)
                if status is not None:
                    # Its TTL may have been left as it was. To ask too early costs a look; too late keeps a ghost.
                    self.expiry.no_later(room, now + ttl)

    def _entry(self, at: int, fields: Sequence[bytes], now: float) -> None:
        ttl = None
        heard: set[int] = set()  # an entry may tell of a room again, when calls have travelled together
        for name, value in zip(fields[::2], fields[1::2], strict=True):
            if name == b"ttl_ms":
                ttl = int(value) / 1000
            elif name.isdigit() and self.is_relevant(room := int(name)):
                last = self._ids.get(room, NOWHERE)
                if at > last or room in heard:
                    heard.add(room)
                    self._put(room, parse_status(value), at)
                elif at < last and room in self._pending_notifications:
                    self._notify(room, parse_status(value))
                if ttl is not None and at >= last and room in self._statuses:
                    self.expiry.set(room, now + ttl)

    def _put(self, room: int, status: KVPoll | None, at: int, own: bool = False, is_hidden: bool = False) -> None:
        """Take over what is newest. A room that is hidden has no status here, and yet is there (see ranked.py)."""
        was = self._statuses.get(room)
        self._ids[room] = at
        if status is not None:
            self._statuses[room] = status
        else:
            self._statuses.pop(room, None)
            if not is_hidden:
                self.expiry.drop(room)
        if own and was is not status:
            self._pending_notifications.setdefault(room, was)
        elif not own and self._pending_notifications.pop(room, was) is not status:
            self._notify_listener(room, status)
        if at > self.position:
            if status is None or room in self._pending_notifications:
                heapq.heappush(self._ahead, (at, room))
        elif status is None:
            self._drop_tombstone(room)
        self._unconfirmed.discard(room)
        if room in self.waiters:
            self._evaluate(room)

    def _come_to(self, at: int) -> None:
        """The feed has come so far: what was known ahead of it is so no more."""
        while self._ahead and self._ahead[0][0] <= at:
            known_at, room = heapq.heappop(self._ahead)
            if self._ids.get(room) == known_at:  # else there is newer
                if room in self._pending_notifications:
                    self._notify(room, self._statuses.get(room))
                    del self._pending_notifications[room]
                if room not in self._statuses:
                    self._drop_tombstone(room)

    def _drop_tombstone(self, room: int) -> None:
        """Forget where an absent room was last heard of: all that could bring it back has been read."""
        if not (self.only_waited and room in self.waiters):
            del self._ids[room]

    def _notify(self, room: int, status: KVPoll | None) -> None:
        """Say what an pending_notifications room has become, if that is news."""
        if self._pending_notifications[room] is not status:
            self._pending_notifications[room] = status
            self._notify_listener(room, status)

    # Waiting

    def enter(self, waiter: Waiter) -> None:
        """Somebody waits. Of a room that was not followed before, nothing older than this moment will be believed."""
        self.waiters.setdefault(waiter.room, {})[waiter] = None
        if self.only_waited and self.position != NOWHERE:
            self._ids.setdefault(waiter.room, self.position)

    def arm(self, waiter: Waiter) -> None:
        waiter.armed = True
        self._evaluate(waiter.room)

    def leave(self, waiter: Waiter) -> None:
        """End of a wait. May be repeated."""
        there = self.waiters.get(waiter.room, {})
        if waiter in there:
            del there[waiter]
            if not there:
                del self.waiters[waiter.room]
                if self.only_waited:
                    self.forget(waiter.room)

    def forget(self, room: int) -> None:
        self._statuses.pop(room, None)
        self._ids.pop(room, None)
        self.expiry.drop(room)
        self._unconfirmed.discard(room)
        self._pending_notifications.pop(room, None)

    def _evaluate(self, room: int) -> None:
        if not self.synced:
            return  # what is known may be old; confirm() asks again
        status = self._statuses.get(room)
        for waiter in self.waiters[room]:
            if waiter.armed and (status is None or status in waiter.goal):
                waiter.settle(RoomNotFoundError(room, "wait") if status is None else status)
