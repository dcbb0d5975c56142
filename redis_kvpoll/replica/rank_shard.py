"""What one of several ranks knows of a shard: where each rank of a room is, and how this one sees the room.

The feed tells whose change each was, and with whom a room begins; so all ranks can be followed from there, and this
one's view follows from theirs: its own status, Failed as soon as any rank is, and nothing once it has cleared. A room
of which others alone have been heard of is there, but not in view. What the feed says of a room that is not known says
not goal: such a room is uncertain until it has been read.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from redis_kvpoll.model import KVPoll, Outcome
from redis_kvpoll.protocol.replies import parse_status, ranks_of
from redis_kvpoll.protocol.script_call import Call
from redis_kvpoll.replica.shard import NOWHERE, ShardReplica

_CREATED = Outcome.CREATED.value
_SAY_OWN = (_CREATED, Outcome.ADVANCED.value, Outcome.UNCHANGED.value)


class _Own(NamedTuple):
    """A write of this process that the feed has not come to yet."""

    at: int
    status: KVPoll
    since: int
    """Where the room begins that it is of, if this process began it: what the feed says before that is of another."""
    followed: dict[int, KVPoll] | None
    """Where the ranks are as far as the feed has come."""


class RankShardReplica(ShardReplica):
    """A shard as ``rank`` sees it. ``ranks`` is shared with the other shards: the ranks of each room that is there."""

    def __init__(
        self,
        statuses: dict[int, KVPoll],
        is_relevant: Callable[[int], bool] | None,
        notify: Callable[[int, KVPoll | None], object],
        rank: str,
        ranks: dict[int, dict[int, KVPoll]],
    ) -> None:
        super().__init__(statuses, is_relevant, notify)
        self._rank = int(rank)
        self._ranks = ranks
        self._cleared: dict[int, set[int]] = {}
        self._own: dict[int, _Own] = {}
        self._own_ahead: list[tuple[int, int]] = []
        """A heap of (id, room) of these. The id is of the last entry of a call; a room may be in one before it."""
        self._unread: set[int] = set()
        """Rooms whose ranks are those from before the fresh start."""
        self._looked: dict[int, int] = {}
        """Rooms that were read ahead of the feed, and at which id: what it says until then is in that."""
        self._looked_to = NOWHERE

    def start_resync(self, position: int) -> None:
        self._unread.update(self._ids)
        super().start_resync(position)
        self.uncertain.clear()
        self._own.clear()
        self._own_ahead.clear()
        self._looked.clear()
        self._looked_to = NOWHERE

    def unconfirmed(self) -> list[int]:
        return list(self._unconfirmed | self._unread)

    def read(self, entries: Iterable[tuple[bytes, Sequence[bytes]]], now: float) -> None:
        super().read(entries, now)
        while self._own_ahead and self._own_ahead[0][0] <= self.position:
            at, room = heapq.heappop(self._own_ahead)
            own = self._own.get(room)
            if own is not None and own.at == at and own.followed is not None:
                del self._own[room]
                self._ranks[room] = own.followed
        if self._looked and self.position >= self._looked_to:
            self._looked.clear()

    def snapshot(self, at: int, rooms: Sequence[int], reply: Sequence[Any], now: float) -> None:
        for room, name, left_ms, words in zip(rooms, reply[::3], reply[1::3], reply[2::3], strict=True):
            if not self.is_relevant(room):
                continue
            is_there = left_ms != -2 and not isinstance(name, Exception)
            is_newest = at >= self._ids.get(room, self.position)
            # Behind an own write, it still says where the others are.
            if is_newest or at >= max(self.position, self._looked.get(room, NOWHERE)):
                self._know(room, at, *(ranks_of(words) if is_there else (None, set())))
                if at > self.position:
                    self._looked[room] = at
                    self._looked_to = max(at, self._looked_to)
            if is_newest:
                self._put(room, parse_status(name), at)
                if is_there and left_ms >= 0:
                    self.expiry.set(room, now + left_ms / 1000)
                else:
                    self.expiry.drop(room)

    def observe_write(self, at: int, call: Call, reply: Sequence[Any], now: float) -> None:
        super().observe_write(at, call, reply, now)
        width = len(call.spec.reply)
        for room, code, name in zip(call.rooms, reply[::width], reply[1::width], strict=True):
            if at > self.position and self._ids.get(room) == at:
                self._know_own(room, at, code, parse_status(name))

    def _know_own(self, room: int, at: int, code: int, view: KVPoll | None) -> None:
        """What an own write says of this rank's status. It is shown at once, where it is sure which room it is of."""
        before = self._own.get(room)
        there = before.followed if before else None if room in self._unread else self._ranks.get(room)
        since = before.since if before and before.since > self.position else NOWHERE
        # Who has been in the room, or sees it Failed, cannot join it, so it is another now. If others are in it, it may
        # be either, and the feed will notify: the ranks of two rooms must not be shown as those of one.
        if code == _CREATED and (there is None or self._rank in there or KVPoll.Failed in there.values()):
            since = at
        is_sure = since != NOWHERE or (there is not None and self._rank in there)
        # Failed may be another's, and be seen by who has no status yet.
        if is_sure and code in _SAY_OWN and view is not None and view is not KVPoll.Failed:
            self._own[room] = _Own(at, view, since, there)
            heapq.heappush(self._own_ahead, (at, room))
            self._ranks[room] = {**(there if there and since == NOWHERE else {}), self._rank: view}

    def _entry(self, at: int, fields: Sequence[bytes], now: float) -> None:
        ttl = None
        heard: set[int] = set()
        for place in range(0, len(fields), 2):
            name, value = fields[place : place + 2]
            if name == b"ttl_ms":
                ttl = int(value) / 1000
            elif name.isdigit() and self.is_relevant(room := int(name)) and at > self._looked.get(room, NOWHERE):
                agreed = parse_status(value)
                whose, its = fields[place + 2 : place + 4] or (b"", b"")
                if not self._follow(room, at, agreed, whose, its, ttl is not None):
                    self.uncertain[room] = at
                    continue
                last = self._ids.get(room, NOWHERE)
                if at > last or room in heard:
                    heard.add(room)
                    self._put(room, self._view(room, agreed), at)
                elif at < last and room in self._pending_notifications:
                    self._notify(room, self._view(room, agreed))
                if ttl is not None and at >= last and room in self._ranks:
                    self.expiry.set(room, now + ttl)

    def _follow(self, room: int, at: int, agreed: KVPoll | None, whose: bytes, its: bytes, has_ttl: bool) -> bool:
        """What all agree on is news; whose change it was, and that rank's status, if it was one's. Whether it is clear
        from that where the ranks are now."""
        if agreed is None:
            self._know(room, at, None, set())
            return True
        kind, _, number = whose.partition(b":")
        status = parse_status(its)
        rank = int(number) if kind in (b"rank", b"first") and number.isdigit() else None
        if rank is not None and status is not None and kind == b"first":
            self._know(room, at, {rank: status}, set())
            return True
        own = self._own.get(room)
        there = own.followed if own else self._ranks.get(room)
        if there is None or room in self._unread:
            return False
        if rank is not None and status is None:
            if has_ttl:  # brought back as cleared, with a status that is not told
                return False
            there.setdefault(rank, KVPoll.Failed)
            self._cleared.setdefault(room, set()).add(rank)
        elif rank is not None and status is not None:
            there[rank] = status
        elif agreed is KVPoll.Failed and KVPoll.Failed not in there.values():
            gone = self._cleared.get(room, ())
            there = {rank: status if rank in gone else KVPoll.Failed for rank, status in there.items()}
        self._show(room, at, there)
        return True

    def _know(self, room: int, at: int, ranks: dict[int, KVPoll] | None, cleared: set[int]) -> None:
        """All that is known of a room's ranks at that id; None when the room is absent."""
        self._unread.discard(room)
        if self.uncertain.get(room, at + 1) <= at:
            del self.uncertain[room]
        self._cleared.pop(room, None)
        if cleared:
            self._cleared[room] = cleared
        self._show(room, at, ranks)
        if room not in self._ranks:
            self.expiry.drop(room)

    def _show(self, room: int, at: int, ranks: dict[int, KVPoll] | None) -> None:
        """``ranks`` as they are at that id, with the own write that is ahead of it."""
        own = self._own.get(room)
        if own is not None and at < own.at:
            since = own.since if at < own.since else NOWHERE
            self._own[room] = own._replace(since=since, followed=ranks)
            ranks = {**(ranks if ranks and since == NOWHERE else {}), self._rank: own.status}
        elif own is not None:
            del self._own[room]
        if ranks is None:
            self._ranks.pop(room, None)
        else:
            self._ranks[room] = ranks

    def _view(self, room: int, agreed: KVPoll | None) -> KVPoll | None:
        """How this rank sees a room, as far as the feed has come."""
        own = self._own.get(room)
        there = own.followed if own else self._ranks.get(room)
        if there is None or self._rank in self._cleared.get(room, ()):
            return None
        return agreed if agreed is KVPoll.Failed else there.get(self._rank)

    def _put(self, room: int, status: KVPoll | None, at: int, own: bool = False, is_hidden: bool = False) -> None:
        super()._put(room, status, at, own, room in self._ranks)

    def _drop_tombstone(self, room: int) -> None:
        if room not in self._ranks:
            super()._drop_tombstone(room)

    def forget(self, room: int) -> None:
        super().forget(room)
        for kept in (self.uncertain, self._ranks, self._cleared, self._own, self._looked):
            kept.pop(room, None)
        self._unread.discard(room)
