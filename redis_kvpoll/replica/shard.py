"""The copy of one shard: the newest status of each room, and the waiters for it.

The feed's ids order all changes of a shard; of two facts about a room, the one with the higher id is newer. Facts have
three sources, each of which may be late: entries of the feed, which come in order; snapshots, true at the last id that
the feed had then; replies to this process's own writes, true at the id of the entry that they appended.

A reply that was sent for before the last resync has an id that means nothing here. It is shown, and the room is then
unverified: only a read that begins after the reply counts for it. While no session follows the feed, a reply is shown,
too, but nothing is kept for the feed to confirm, which may never come: the next session reads every room.

Invariant: the status of a verified room is the one with the highest id seen. A room found absent keeps that id as a
tombstone until the feed was read up to it, so that no earlier entry re-creates the room. A shard with an unverified
room is not synced.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol.feed import STATUSES, parse_entry
from redis_kvpoll.protocol.feed_ids import NOWHERE, number_of
from redis_kvpoll.protocol.replies import parse_status
from redis_kvpoll.protocol.script_call import NOT_REPORTED, Call
from redis_kvpoll.replica.expiry import Expiry
from redis_kvpoll.replica.reasons import FailureReasons
from redis_kvpoll.replica.unverified import Uncertain, Unverified
from redis_kvpoll.replica.waiter import WaitedRooms, Waiter

MAX_AHEAD = 200_000
"""Facts ahead of the feed: some 50 MB. There are more only if the follower does not read, as while a callback hangs."""


class ShardReplica(WaitedRooms):
    """The newest known state of the rooms of one shard. Callers hold the replica's lock.

    ``statuses`` is shared with the other shards. ``is_relevant`` selects the rooms; None selects those that have
    waiters. ``notify`` gets each change once the feed was read up to it. Times are seconds.
    """

    def __init__(
        self,
        statuses: dict[int, KVPoll],
        is_relevant: Callable[[int], bool] | None,
        notify: Callable[[int, KVPoll | None], object],
    ) -> None:
        super().__init__(statuses, is_relevant)
        self.is_followed = False
        """Whether a session follows the feed: since its resync, until it has ended."""
        self._is_listed = False
        self.resync_count = 0
        """The resyncs so far. Ids from before and after one are not comparable: the server may be another one."""
        self.position = NOWHERE
        self.tail_seen_at = float("-inf")
        """When the feed was last read to its end."""
        self.appended_after = float("-inf")
        """No unread entry was appended before this time, when the end of the feed was seen."""
        self.expiry = Expiry()
        self._notify_listener = notify
        self._ids: dict[int, int] = {}
        """The id of the newest fact about each room, tombstones included."""
        self._ahead: list[tuple[int, int]] = []
        """A heap of (id, room): facts ahead of the feed, to be processed once it was read up to their id."""
        self._ahead_to = NOWHERE
        """The highest id of a fact ahead of the feed: a later entry is newer than every fact."""
        self._reasons = FailureReasons()
        self._unconfirmed: set[int] = set()
        self.unverified = Unverified()
        self.uncertain = Uncertain()
        self._pending_notifications: dict[int, KVPoll | None] = {}
        """Rooms that an own write changed ahead of the feed, each with the status that was last notified."""

    def start_resync(self, position: int) -> None:
        """Start again at a position in what may be another feed. Keeps the last known statuses; drops the reasons."""
        self.resync_count += 1
        self._is_listed, self.is_followed, self.position = False, True, position
        self._unconfirmed.update(self._ids, self._pending_notifications)
        self._ids, self._ahead, self._ahead_to = {}, [], NOWHERE
        self.uncertain.clear()
        self._reasons.clear()
        if self.only_waited:
            self._unconfirmed.update(self.waiters)
            self._ids = dict.fromkeys(self.waiters, position)

    def unconfirmed(self) -> list[int]:
        """Rooms from before the resync that no source has reported since."""
        return list(self._unconfirmed.union(self.unverified))

    def known_rooms(self) -> Iterator[int]:
        """Yield the rooms that are known now; a room that is gone when its turn comes is left out."""
        return (room for room in list(self._ids) if room in self._ids)

    @property
    def synced(self) -> bool:
        return self._is_listed and not self.unverified

    def mark_synced(self) -> None:
        """All rooms are known and the feed was read to its end: the copy is current, once all rooms are verified."""
        self._is_listed = True
        self._evaluate_all()

    def mark_unsynced(self) -> None:
        self._is_listed = False

    def session_ended(self) -> None:
        """No feed will confirm what is ahead of it."""
        self._is_listed = self.is_followed = False
        for _, room in self._ahead:
            self._leave_to_resync(room, self._statuses.get(room))
        self._ahead = []

    @property
    def is_overrun(self) -> bool:
        return len(self._ahead) > MAX_AHEAD

    def failure_reason(self, room: int) -> str | None:
        """A room's reason from the feed; None if there was none since the last resync."""
        return self._reasons.text(room, self._statuses.get(room))

    # Sources

    def read(self, entries: Iterable[tuple[bytes, Sequence[bytes]]], now: float) -> None:
        """Apply entries of the feed, in order, from the position on."""
        for name, fields in entries:
            at = number_of(name)
            if at > self.position:
                if self._ahead:
                    self._advance_to(at - 1)
                self.position = at
                self._apply_entry(at, fields, now)
                if self._ahead:
                    self._advance_to(at)

    def snapshot(self, at: int, rooms: Sequence[int], reply: Sequence[Any], now: float, asked_at: float) -> None:
        """Apply the status and TTL that rooms had at one id. An expired room is absent there, without an entry."""
        for room, name, left_ms in zip(rooms, reply[::2], reply[1::2], strict=True):
            if not self.is_relevant(room) or not self.unverified.verify(room, asked_at):
                continue
            if at >= self._ids.get(room, self.position):
                status = parse_status(name)
                self.uncertain.verify(room, at)
                self._apply(room, status, at)
                if status is not None and left_ms >= 0:
                    self.expiry.set(room, now + left_ms / 1000)
                else:
                    self.expiry.drop(room)
        self._evaluate_verified()

    def observe_write(self, at: int, call: Call, reply: Sequence[Any], now: float) -> None:
        """Apply the reply to a write of this process; nothing in it is older than the entry that it appended."""
        sent = zip(call.spec.shared_args, call.shared_args, strict=True)
        ttls = [int(ms) for name, ms in sent if name.endswith("ttl_ms")]
        ttl = min(ttls, default=0) / 1000
        for room, status in self._reported(call, reply):
            if at > self._ids.get(room, self.position):
                self._apply(room, status, at, own=True)
                if status is not None:
                    # The write may not have changed the TTL. Too early costs a read; too late keeps an expired room.
                    self.expiry.no_later(room, now + ttl)

    def show_unverified(self, call: Call, reply: Sequence[Any], now: float, is_read: bool) -> None:
        """Show the reply to a call of this process that has no place among the ids; of a read only new rooms."""
        for room, status in self._reported(call, reply):
            if is_read and (status is None or room in self._statuses):
                continue
            previous = self._statuses.get(room)
            if status is not None:
                self._statuses[room] = status
            else:
                self._statuses.pop(room, None)
            if previous is not status:
                self._pending_notifications.setdefault(room, previous)
            if self.is_followed:
                self.unverified.add(room, now)
                self._ids[room] = self.position  # whatever is read replaces it
            else:
                self._leave_to_resync(room, status)

    def _leave_to_resync(self, room: int, status: KVPoll | None) -> None:
        """Keep of a room only what the next resync needs: nothing if it is gone, and no listener knows of it."""
        self.unverified.pop(room, None)
        pending = self._pending_notifications
        if room in pending and pending[room] is status:
            del pending[room]
        if status is None:
            self._drop(room)
            self._drop_tombstone(room)
        self._unconfirmed.discard(room)
        if status is not None or room in pending:
            self._unconfirmed.add(room)

    def _reported(self, call: Call, reply: Sequence[Any]) -> list[tuple[int, KVPoll | None]]:
        """Return the statuses after a write: of each relevant room the last."""
        assert call.spec.statuses_after is not None  # noqa: S101 - the replica has checked it
        left = zip(call.rooms, call.spec.statuses_after(list(reply)), strict=True)
        names = {room: name for room, name in left if name is not NOT_REPORTED}
        return [(room, parse_status(name)) for room, name in names.items() if self.is_relevant(room)]

    def _apply_entry(self, at: int, fields: Sequence[bytes], now: float) -> None:
        is_ahead_of_all = at > self._ahead_to
        reasons = self._reasons
        applied: set[int] = set()  # an entry may name a room twice, when calls shared a batch
        for room, name, ttl, reason, field, _ in parse_entry(fields):
            if not self.is_relevant(room):
                continue
            status = STATUSES.get(name)
            last = NOWHERE if is_ahead_of_all else self._ids.get(room, NOWHERE)
            is_newest = at > last or room in applied
            if reason is not None or (reasons and room in reasons):
                exists = is_newest or room in self._statuses
                reasons.apply(room, status, reason if exists else None, field)
            if self.unverified and room in self.unverified:
                continue  # the read that is to come includes this
            if is_newest and ttl is None and status is not None and self._statuses.get(room) is not status:
                self.uncertain[room] = at  # a script that changes a status sets a TTL: this was written by hand
            elif is_newest:
                if not is_ahead_of_all:
                    applied.add(room)
                self._apply(room, status, at)
            elif at < last and room in self._pending_notifications:
                self._notify(room, status)
            if ttl is not None and at >= last and room in self._statuses:
                self.expiry.set(room, now + ttl)

    def _apply(self, room: int, status: KVPoll | None, at: int, own: bool = False, is_hidden: bool = False) -> None:
        """Take the newest status. A hidden room has no status here, but exists (see rank_shard.py)."""
        previous = self._statuses.get(room)
        self._ids[room] = at
        if status is not None:
            self._statuses[room] = status
        else:
            self._statuses.pop(room, None)
            if not is_hidden:
                self._drop(room)
        pending = self._pending_notifications
        if own:
            if previous is not status:
                pending.setdefault(room, previous)
        elif (pending.pop(room, previous) if pending else previous) is not status:
            self._notify_listener(room, status)
        if at > self.position:
            self._ahead_to = max(at, self._ahead_to)
            if status is None or room in pending:
                heapq.heappush(self._ahead, (at, room))
        elif status is None:
            self._drop_tombstone(room)
        if self._unconfirmed:
            self._unconfirmed.discard(room)
        if room in self.waiters:
            self._evaluate(room)

    def _advance_to(self, at: int) -> None:
        """The feed was read up to an id: facts up to it are no longer ahead."""
        while self._ahead and self._ahead[0][0] <= at:
            known_at, room = heapq.heappop(self._ahead)
            if self._ids.get(room) == known_at:  # else there is a newer fact
                if room in self._pending_notifications:
                    self._notify(room, self._statuses.get(room))
                    del self._pending_notifications[room]
                if room not in self._statuses:
                    self._drop_tombstone(room)

    def _drop(self, room: int) -> None:
        """The room does not exist: drop everything that is kept about it besides its status."""
        self.expiry.drop(room)
        if self._reasons:
            self._reasons.pop(room, None)

    def _drop_tombstone(self, room: int) -> None:
        """Forget the id of an absent room: every entry that could re-create it has been read."""
        if not (self.only_waited and room in self.waiters):
            self._ids.pop(room, None)

    def _notify(self, room: int, status: KVPoll | None) -> None:
        """Notify a change that was read in the feed, unless it was notified before."""
        if self._pending_notifications[room] is not status:
            self._pending_notifications[room] = status
            self._notify_listener(room, status)

    # Waiting

    def enter(self, waiter: Waiter) -> None:
        """Add a waiter. If its room was not followed before, facts older than this moment do not count."""
        super().enter(waiter)
        if self.only_waited and self.position != NOWHERE:
            self._ids.setdefault(waiter.room, self.position)

    def forget(self, room: int) -> None:
        for kept in (self._statuses, self._ids, self._pending_notifications, self.unverified, self.uncertain):
            kept.pop(room, None)
        self._drop(room)
        self._unconfirmed.discard(room)
        self._evaluate_verified()

    def _evaluate_verified(self) -> None:
        if self.unverified.ended():
            self._evaluate_all()
