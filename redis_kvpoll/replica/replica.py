"""A local copy of the table, or of its rooms with waiters.

Invariant: the lock is held for every change, and for no read of ``statuses``. A change never runs in the middle of
another. A shard that is not synced keeps its last known statuses and wakes no waiter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from redis_kvpoll.engine.locks import owns
from redis_kvpoll.errors import KVPollError, WaitTimeoutError
from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.feed_ids import number_of
from redis_kvpoll.protocol.script_call import Call, CallContext
from redis_kvpoll.protocol.script_specs import SNAPSHOT
from redis_kvpoll.replica.rank_shard import RankShardReplica
from redis_kvpoll.replica.shard import ShardReplica
from redis_kvpoll.replica.waiter import Waiter

SyncToken: TypeAlias = Mapping[str, int]
"""The resync_count of each shard at one moment."""

STALE_AFTER = 1.0
"""Seconds. A shard whose feed was not read to its end for longer may be old: the server hangs or is unreachable, this
process was stopped, or the follower cannot keep up."""


class Replica:
    """The copies of all shards, behind one lock for all writers.

    ``statuses`` is always the same dict, free to read. So are ``ranks``, the statuses of a room's ranks in their order,
    where the context has a rank, and ``consensus``, what the ranks of a room agree on. ``is_relevant`` selects the
    rooms; None selects those that have waiters. ``lock``, which must be reentrant, and every ``now`` (seconds of a
    monotonic clock) come from outside: this class does no I/O.
    """

    def __init__(
        self,
        context: CallContext,
        lock: AbstractContextManager[Any],
        is_relevant: Callable[[int], bool] | None = None,
        period: float = 0.0,
    ) -> None:
        self.context = context
        self.read_spec = SNAPSHOT.of(context)
        """The script that reads rooms."""
        self.only_waited = is_relevant is None
        self.period = period
        """Seconds between reads of the feed; 0 to read each change at once."""
        self.lock = lock
        self.statuses: dict[int, KVPoll] = {}
        self.ranks: dict[int, dict[int, KVPoll]] = {}
        self.consensus: dict[int, KVPoll] = {} if context.rank else self.statuses
        self.notifying = False
        """Whether changes are recorded for listeners."""
        self.resyncs_wanted = 0
        """Grows when the copy must be read anew: the store has found another server, a change was interrupted, or a
        follower does not read."""
        self._put_off: deque[Callable[[], object]] = deque()
        self._is_changing = False
        self._changes: list[tuple[int, KVPoll | None]] = []
        tags = keys.tags(context.namespace, context.shards)
        self.first_tag = tags[0]
        self.shards = {tag: self._shard(is_relevant) for tag in tags}
        self._sync_token: SyncToken = dict.fromkeys(tags, 0)

    def _shard(self, is_relevant: Callable[[int], bool] | None) -> ShardReplica:
        if self.context.rank:
            rank = self.context.rank, self.context.world_size
            return RankShardReplica(self.statuses, is_relevant, self._record, rank, self.ranks, self.consensus)
        return ShardReplica(self.statuses, is_relevant, self._record)

    def _record(self, room: int, status: KVPoll | None) -> None:
        if self.notifying:
            self._changes.append((room, status))

    @property
    def has_changes(self) -> bool:
        """Whether there are changes to take."""
        return bool(self._changes)

    def take_changes(self) -> list[tuple[int, KVPoll | None]]:
        """Return the changes since the last call, in order: each room with its new status, None when it is gone."""
        with self.lock:
            changes, self._changes = self._changes, []
        return changes

    def failure_reason(self, room: int) -> str | None:
        """Return a room's reason from the feed; None if there was none since the last resync."""
        return self.shards[self._tag(room)].failure_reason(room)

    # Changes

    def _change(self, action: Callable[[], object]) -> None:
        """Change the copy. A signal handler or finalizer that interrupts a change of its own thread comes after it."""
        with self.lock:
            self._put_off.append(action)
            while self._put_off and not self._is_changing:
                try:
                    self._is_changing = True
                    while self._put_off:
                        self._put_off.popleft()()
                except BaseException:
                    self._want_resync()  # the change may be half done
                    raise
                finally:
                    self._is_changing = False

    def _change_followed(self, shard: ShardReplica, action: Callable[[], object]) -> None:
        """Change a shard by what was read for it, unless it was given up meanwhile: then it will be read anew."""
        self._change(lambda: action() if shard.is_followed else None)

    @property
    def is_interrupted(self) -> bool:
        """Whether the caller interrupts a change of its own thread, so that no other thread can change the copy."""
        return owns(self.lock)

    def _want_resync(self) -> None:
        self.resyncs_wanted += 1
        for shard in self.shards.values():
            shard.mark_unsynced()

    # State

    def is_synced(self, now: float) -> bool:
        oldest = now - STALE_AFTER - self.period
        return all(shard.synced and shard.appended_after > oldest for shard in self.shards.values())

    def lag(self, now: float) -> float:
        return max(now - shard.tail_seen_at for shard in self.shards.values())

    # The follower's side. Times are those of the server's answer.

    def start_resync(self, tag: str, feed_id: bytes, now: float) -> None:
        def change() -> None:
            shard = self.shards[tag]
            shard.start_resync(number_of(feed_id))
            shard.appended_after = now
            self._sync_token = {**self._sync_token, tag: shard.resync_count}

        self._change(change)

    def mark_synced(self, tag: str, resyncs_wanted: int) -> None:
        """All rooms of a shard are known, unless another resync is wanted since ``resyncs_wanted``."""

        def change() -> None:
            if self.resyncs_wanted == resyncs_wanted:
                self.shards[tag].mark_synced()

        self._change(change)

    def mark_unsynced(self, tags: Iterable[str]) -> None:
        """No session follows these shards: it is unknown whether they are current, and the next one reads them anew."""

        def change() -> None:
            for tag in tags:
                self.shards[tag].session_ended()

        self._change(change)

    def read(self, tag: str, entries: Sequence[tuple[bytes, Sequence[bytes]]], at_tail: bool, now: float) -> None:
        shard = self.shards[tag]

        def change() -> None:
            if entries:
                # Nothing else is known of their age than that they were appended after the end was last seen. A due
                # time that is too early costs a read; one that is too late keeps an expired room.
                shard.read(entries, now if now - shard.appended_after < STALE_AFTER else shard.appended_after)
            if at_tail:
                shard.tail_seen_at = shard.appended_after = now

        self._change_followed(shard, change)

    def snapshot(
        self,
        tag: str,
        feed_id: bytes,
        rooms: Sequence[int],
        reply: Sequence[Any],
        now: float,
        asked_at: float | None = None,
    ) -> None:
        """Apply a read, which is true as of ``now``; ``asked_at`` if it began earlier."""
        shard, at, began_at = self.shards[tag], number_of(feed_id), now if asked_at is None else asked_at
        self._change_followed(shard, lambda: shard.snapshot(at, rooms, reply, now, began_at))

    def uncertain(self, tag: str) -> list[int]:
        """Return the rooms whose state is not known from the feed; they stay here until they are read."""
        shard = self.shards[tag]
        return [*shard.uncertain, *shard.unverified] if shard.uncertain or shard.unverified else []

    def due(self, tag: str, now: float, limit: int) -> list[int]:
        """Return rooms that should have expired by now; the server decides whether they have.

        Rooms that are no longer relevant are dropped instead: a read of them would not be applied.
        """
        shard, wanted = self.shards[tag], list[int]()

        def change() -> None:
            for room in shard.expiry.due(now, limit):
                if shard.is_relevant(room):
                    wanted.append(room)
                else:
                    shard.forget(room)

        self._change(change)
        return wanted

    # The store's side: an observer of its writes

    def sync_token(self) -> SyncToken:
        """Return the token of this moment, to be taken before a call is sent."""
        return self._sync_token

    def observe_write(self, token: SyncToken, call: Call, feed_id: bytes, reply: Sequence[Any], now: float) -> None:
        """Apply a reply, as of ``feed_id``. If the call is from before the last resync, only show it: it may be from
        another server, whose ids are not comparable. The same while no session follows the feed."""
        shard = self.shards.get(call.tag)
        if shard is None or call.spec.statuses_after is None:
            return
        at, is_read = number_of(feed_id), call.spec is self.read_spec

        def change() -> None:
            if not shard.is_followed or token.get(call.tag) != shard.resync_count:
                shard.show_unverified(call, reply, now, is_read)
            elif is_read:
                shard.snapshot(at, call.rooms, reply, now, float("-inf"))
            else:
                shard.observe_write(at, call, reply, now)
            if shard.is_followed and shard.is_overrun and now - shard.appended_after > STALE_AFTER + self.period:
                shard.session_ended()
                self._want_resync()  # by which the follower ends its session, once it gets on

        self._change(change)

    def server_changed(self) -> None:
        """The store has found another server, or one without its data. The follower's may be the former one."""
        self._change(self._want_resync)

    # Waiting

    def enter(self, room: int, goal: frozenset[KVPoll], wake: Callable[[], object], armed: bool) -> Waiter:
        """Add a waiter for a room. Unless ``armed``, it cannot end before ``arm``."""
        waiter = Waiter(room, self._tag(room), goal, wake)
        shard = self.shards[waiter.tag]

        def change() -> None:
            shard.enter(waiter)
            if armed:
                shard.arm(waiter)

        try:
            self._change(change)
        except BaseException:
            self.leave(waiter)  # an interrupt may come after the change
            raise
        return waiter

    def arm(self, waiter: Waiter) -> None:
        """Let a waiter end: its room was read since it entered, and ``observe_write`` got the reply."""
        shard = self.shards[waiter.tag]

        def change() -> None:
            if waiter in shard.waiters.get(waiter.room, ()):
                shard.arm(waiter)

        self._change(change)

    def result(self, waiter: Waiter, seconds: float | None) -> KVPoll:
        """Return or raise the outcome of a wait that has ended, or whose ``seconds`` are over."""
        outcome = waiter.outcome
        if outcome is None:
            raise WaitTimeoutError(waiter.room, self.statuses.get(waiter.room), seconds or 0.0)
        if isinstance(outcome, KVPollError):
            raise outcome
        return outcome

    def leave(self, waiter: Waiter) -> None:
        self._change(lambda: self.shards[waiter.tag].leave(waiter))

    def end(self, error: KVPollError) -> None:
        """End every wait with ``error``, because the copy ends."""

        def change() -> None:
            for shard in self.shards.values():
                shard.mark_unsynced()
                for waiters in shard.waiters.values():
                    for waiter in waiters:
                        waiter.settle(error)

        self._change(change)

    def _tag(self, room: int) -> str:
        return keys.tag(self.context.namespace, self.context.shards, room)
