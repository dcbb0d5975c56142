"""The copy of one shard for one of several ranks: the status of each rank of a room, and the room as this rank sees it.

A feed entry names the rank that changed, and whether it created the room. So the copy follows all ranks, and derives
this rank's view: its own status; Failed as soon as any rank has failed; none once it has cleared. A room in which only
other ranks have a status exists, but has no view.

The consensus of the ranks is kept up with them, so that reading it costs one look-up: each entry has it.

Invariant: the ranks shown for a room, in the order of their numbers, are those of one room at one moment. After an
entry for an unknown room they are not known: the room is uncertain until it has been read.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from redis_kvpoll.model import KVPoll, Outcome
from redis_kvpoll.protocol.feed import STATUSES, RankField, parse_entry
from redis_kvpoll.protocol.feed_ids import NOWHERE
from redis_kvpoll.protocol.rank_replies import ranks_of
from redis_kvpoll.protocol.replies import parse_status
from redis_kvpoll.protocol.script_call import Call
from redis_kvpoll.replica.shard import MAX_AHEAD, ShardReplica

_CREATED = Outcome.CREATED.value
_REPORT_OWN_STATUS = (_CREATED, Outcome.ADVANCED.value, Outcome.UNCHANGED.value)


class OwnWrite(NamedTuple):
    """A write of this process that the follower has not read in the feed yet."""

    at: int
    status: KVPoll
    since: int
    """The id at which its room begins, if this process created it: earlier entries are about another room."""
    followed: dict[int, KVPoll] | None
    """The ranks as far as the feed was read."""


class RankShardReplica(ShardReplica):
    """A shard as ``rank`` of ``world_size`` sees it.

    ``ranks`` and ``consensus`` are shared with the other shards: the ranks of each room that exists, and what they
    agree on.
    """

    def __init__(
        self,
        statuses: dict[int, KVPoll],
        is_relevant: Callable[[int], bool] | None,
        notify: Callable[[int, KVPoll | None], object],
        rank: tuple[str, str],
        ranks: dict[int, dict[int, KVPoll]],
        consensus: dict[int, KVPoll],
    ) -> None:
        super().__init__(statuses, is_relevant, notify)
        self._rank, self._world_size = map(int, rank)
        self._ranks = ranks
        self._consensus = consensus
        self._cleared: dict[int, set[int]] = {}
        self._own_writes: dict[int, OwnWrite] = {}
        self._own_ahead: list[tuple[int, int]] = []
        """A heap of (id, room) of these. The id is of the last entry of a call; a room may be in an earlier one."""
        self._unread: set[int] = set()
        """Rooms whose ranks are from before the resync."""
        self._read_ahead: dict[int, int] = {}
        """Rooms that were read ahead of the feed, each with the id of the read, which includes entries up to it."""
        self._read_ahead_to = NOWHERE

    def start_resync(self, position: int) -> None:
        self._unread.update(self._ids)
        super().start_resync(position)
        self._own_writes.clear()
        self._own_ahead.clear()
        self._read_ahead.clear()
        self._read_ahead_to = NOWHERE

    @property
    def is_overrun(self) -> bool:
        return super().is_overrun or len(self._own_ahead) > MAX_AHEAD

    def unconfirmed(self) -> list[int]:
        return list(self._unconfirmed.union(self._unread, self.unverified))

    def read(self, entries: Iterable[tuple[bytes, Sequence[bytes]]], now: float) -> None:
        super().read(entries, now)
        while self._own_ahead and self._own_ahead[0][0] <= self.position:
            at, room = heapq.heappop(self._own_ahead)
            own = self._own_writes.get(room)
            if own is not None and own.at == at and own.followed is not None:
                del self._own_writes[room]
                self._show_derived(room, own.followed)
        if self._read_ahead and self.position >= self._read_ahead_to:
            self._read_ahead.clear()

    def snapshot(self, at: int, rooms: Sequence[int], reply: Sequence[Any], now: float, asked_at: float) -> None:
        for room, name, left_ms, words in zip(rooms, reply[::3], reply[1::3], reply[2::3], strict=True):
            if not self.is_relevant(room) or not self.unverified.verify(room, asked_at):
                continue
            exists = left_ms != -2 and not isinstance(name, Exception)
            is_newest = at >= self._ids.get(room, self.position)
            # A snapshot that is older than an own write still has the statuses of the other ranks.
            if is_newest or at >= max(self.position, self._read_ahead.get(room, NOWHERE)):
                self._set_ranks(room, at, *(ranks_of(words) if exists else (None, None, set())))
                if at > self.position:
                    self._read_ahead[room] = at
                    self._read_ahead_to = max(at, self._read_ahead_to)
            if is_newest:
                self._apply(room, parse_status(name), at)
                if exists and left_ms >= 0:
                    self.expiry.set(room, now + left_ms / 1000)
                else:
                    self.expiry.drop(room)
        self._evaluate_verified()

    def observe_write(self, at: int, call: Call, reply: Sequence[Any], now: float) -> None:
        super().observe_write(at, call, reply, now)
        width = len(call.spec.reply)
        for room, code, name in zip(call.rooms, reply[::width], reply[1::width], strict=True):
            if at > self.position and self._ids.get(room) == at:
                self._apply_own(room, at, code, parse_status(name))

    def _apply_own(self, room: int, at: int, code: int, view: KVPoll | None) -> None:
        """Show this rank's status from an own write at once, if it is certain which generation was written."""
        before = self._own_writes.get(room)
        ranks = before.followed if before else None if room in self._unread else self._ranks.get(room)
        since = before.since if before and before.since > self.position else NOWHERE
        # A rank that was in the room, or sees it Failed, cannot join it, so this is a new room. If only others are in
        # it, the feed decides: the ranks of two rooms must not be shown as those of one.
        if code == _CREATED and (ranks is None or self._rank in ranks or KVPoll.Failed in ranks.values()):
            since = at
        is_certain = since != NOWHERE or (ranks is not None and self._rank in ranks)
        # Failed may be another rank's, also seen by a rank without a status.
        if is_certain and code in _REPORT_OWN_STATUS and view is not None and view is not KVPoll.Failed:
            self._own_writes[room] = OwnWrite(at, view, since, ranks)
            heapq.heappush(self._own_ahead, (at, room))
            self._show_own(room, self._own_writes[room])

    def _apply_entry(self, at: int, fields: Sequence[bytes], now: float) -> None:
        is_ahead_of_all = at > self._ahead_to
        applied: set[int] = set()
        reasons, read_ahead = self._reasons, self._read_ahead
        for room, name, ttl, reason, field, rank_name in parse_entry(fields):
            if not self.is_relevant(room):
                continue
            consensus = STATUSES.get(name)
            is_unread = not read_ahead or at > read_ahead.get(room, NOWHERE)
            if reason is not None or (reasons and room in reasons):
                exists = is_unread or room in self._ranks or room in self.uncertain
                reasons.apply(room, consensus, reason if exists else None, field)
            if not is_unread or (self.unverified and room in self.unverified):
                continue
            if not self._follow_ranks(room, at, consensus, field, STATUSES.get(rank_name), ttl is not None):
                self.uncertain[room] = at
                continue
            last = NOWHERE if is_ahead_of_all else self._ids.get(room, NOWHERE)
            if at > last or room in applied:
                if not is_ahead_of_all:
                    applied.add(room)
                self._apply(room, self._view(room, consensus), at)
            elif at < last and room in self._pending_notifications:
                self._notify(room, self._view(room, consensus))
            if ttl is not None and at >= last and room in self._ranks:
                self.expiry.set(room, now + ttl)

    def _follow_ranks(
        self,
        room: int,
        at: int,
        consensus: KVPoll | None,
        field: RankField | None,
        status: KVPoll | None,
        has_ttl: bool,
    ) -> bool:
        """Apply one change: the consensus, and the new ``status`` of the rank that changed, if one did.

        Returns False if the ranks are not known after it.
        """
        if consensus is None:
            self._set_ranks(room, at, None, None, set())
            return True
        rank, begins = field or (None, False)
        if rank is not None and begins and status is not None and has_ttl:
            self._set_ranks(room, at, consensus, {rank: status}, set())
            return True
        own = self._own_writes.get(room)
        ranks = own.followed if own else self._ranks.get(room)
        if ranks is None or room in self._unread:
            return False
        is_same = own is not None or consensus is self._consensus.get(room)
        if not has_ttl and (status is not None or not is_same):
            return False  # as in shard.py: this was written by hand
        if rank is not None and status is None:
            if has_ttl:  # a replay restored it as cleared, with a last status that is not in the entry
                return False
            ranks = _with(ranks, rank, ranks.get(rank, KVPoll.Failed))
            self._cleared.setdefault(room, set()).add(rank)
        elif rank is not None and status is not None:
            ranks = _with(ranks, rank, status)
        elif consensus is KVPoll.Failed and KVPoll.Failed not in ranks.values():
            cleared = self._cleared.get(room, ())
            ranks = {one: at_end if one in cleared else KVPoll.Failed for one, at_end in ranks.items()}
        self._show(room, at, consensus, ranks)
        return True

    def _set_ranks(
        self, room: int, at: int, consensus: KVPoll | None, ranks: dict[int, KVPoll] | None, cleared: set[int]
    ) -> None:
        """Replace the known ranks of a room by their state at an id; None when the room is absent."""
        self._unread.discard(room)
        self.uncertain.verify(room, at)
        self._cleared.pop(room, None)
        if cleared:
            self._cleared[room] = cleared
        self._show(room, at, consensus, ranks)
        if room not in self._ranks:
            self._drop(room)

    def _show(self, room: int, at: int, consensus: KVPoll | None, ranks: dict[int, KVPoll] | None) -> None:
        """Show ``ranks`` and their consensus as of an id, overlaid by the own write that is ahead of it."""
        own = self._own_writes.get(room)
        if own is not None and at < own.at:
            since = own.since if at < own.since else NOWHERE
            own = self._own_writes[room] = own._replace(since=since, followed=ranks)
            self._show_own(room, own)
            return
        if own is not None:
            del self._own_writes[room]
        if ranks is None:
            self._ranks.pop(room, None)
        else:
            self._ranks[room] = ranks
        if ranks is None or consensus is None:
            self._consensus.pop(room, None)
        else:
            self._consensus[room] = consensus

    def _show_own(self, room: int, own: OwnWrite) -> None:
        """Show an own write over the ranks that the feed has."""
        followed = own.followed if own.followed and own.since == NOWHERE else {}
        self._show_derived(room, _with(dict(followed), self._rank, own.status))

    def _show_derived(self, room: int, ranks: dict[int, KVPoll]) -> None:
        """Show ranks for which no entry has the consensus. Their room has this store's number of ranks."""
        self._ranks[room] = ranks
        lowest = min(ranks.values(), default=KVPoll.Bootstrapping)  # Failed is the lowest
        is_known = lowest is KVPoll.Failed or len(ranks) == self._world_size
        self._consensus[room] = lowest if is_known else KVPoll.Bootstrapping

    def _view(self, room: int, consensus: KVPoll | None) -> KVPoll | None:
        """Return this rank's view of a room, as far as the feed was read."""
        own = self._own_writes.get(room)
        ranks = own.followed if own else self._ranks.get(room)
        if ranks is None or self._rank in self._cleared.get(room, ()):
            return None
        return consensus if consensus is KVPoll.Failed else ranks.get(self._rank)

    def _apply(self, room: int, status: KVPoll | None, at: int, own: bool = False, is_hidden: bool = False) -> None:
        super()._apply(room, status, at, own, room in self._ranks)

    def _leave_to_resync(self, room: int, status: KVPoll | None) -> None:
        if status is None and self._ranks.get(room, {}).keys() <= {self._rank}:  # nobody else has told of the room
            for kept in (self._ranks, self._consensus, self._own_writes):
                kept.pop(room, None)
            self._unread.discard(room)
        super()._leave_to_resync(room, status)

    def _drop_tombstone(self, room: int) -> None:
        if room not in self._ranks:
            super()._drop_tombstone(room)

    def forget(self, room: int) -> None:
        super().forget(room)
        for kept in (self._ranks, self._consensus, self._cleared, self._own_writes, self._read_ahead):
            kept.pop(room, None)
        self._unread.discard(room)


def _with(ranks: dict[int, KVPoll], rank: int, status: KVPoll) -> dict[int, KVPoll]:
    """Return ranks with the status of one, in order. They are changed in place if they have it already."""
    if rank not in ranks:
        return dict(sorted({**ranks, rank: status}.items()))
    ranks[rank] = status
    return ranks
