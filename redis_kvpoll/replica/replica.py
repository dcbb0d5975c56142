"""A local copy of the table, or of those of its rooms that somebody waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from redis_kvpoll.errors import KVPollError, WaitTimeoutError
from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.script_call import Call, CallContext
from redis_kvpoll.protocol.script_specs import SNAPSHOT
from redis_kvpoll.replica.rank_shard import RankShardReplica
from redis_kvpoll.replica.shard import ShardReplica, Waiter, number_of

SyncEpochs: TypeAlias = Mapping[str, int]
"""The round of each shard, at the moment when a write was sent."""

STALE_AFTER = 1.0
"""Seconds. Where the end of the feed was not seen for so long, what is here may be old: the server hangs or is cut off,
this process was stopped, or the follower cannot keep up."""


class Replica:
    """The shards' copies, behind one lock for all who write. ``statuses`` is always the same dict, for anybody to read;
    so is ``ranks``, which has a room's ranks with their statuses where the context has a rank.

    ``is_relevant`` says which rooms are of interest; without one they are those that are waited for. ``lock`` and every
    ``now`` (seconds of a clock that does not go back) come from outside, so that this does no more than compute.
    """

    def __init__(
        self, context: CallContext, lock: AbstractContextManager[Any], is_relevant: Callable[[int], bool] | None = None
    ) -> None:
        self.context = context
        self.read_spec = SNAPSHOT.of(context)
        """How rooms are read."""
        self.only_waited = is_relevant is None
        self.lock = lock
        self.statuses: dict[int, KVPoll] = {}
        self.ranks: dict[int, dict[int, KVPoll]] = {}
        self.notifying = False
        """Whether anybody is_relevant to be told of changes."""
        self.times_suspected = 0
        self._changes: list[tuple[int, KVPoll | None]] = []
        tags = keys.tags(context.namespace, context.shards)
        self.shards = {tag: self._shard(is_relevant) for tag in tags}
        self._sync_epochs: SyncEpochs = dict.fromkeys(tags, 0)

    def _shard(self, is_relevant: Callable[[int], bool] | None) -> ShardReplica:
        if self.context.rank:
            return RankShardReplica(self.statuses, is_relevant, self._note, self.context.rank, self.ranks)
        return ShardReplica(self.statuses, is_relevant, self._note)

    def _note(self, room: int, status: KVPoll | None) -> None:
        if self.notifying:
            self._changes.append((room, status))

    def take_changes(self) -> list[tuple[int, KVPoll | None]]:
        """The changes since the last call, in order: each room with its new status, None when it is gone."""
        if not self._changes:
            return []
        with self.lock:
            changes, self._changes = self._changes, []
        return changes

    # How it stands

    def is_synced(self, now: float) -> bool:
        return all(shard.synced and now - shard.reached < STALE_AFTER for shard in self.shards.values())

    def lag(self, now: float) -> float:
        return max(now - shard.at_tail for shard in self.shards.values())

    # What the follower hears. Times are those of the server's answer.

    def start_resync(self, tag: str, feed_id: bytes, now: float) -> None:
        with self.lock:
            shard = self.shards[tag]
            shard.start_resync(number_of(feed_id))
            shard.reached = now
            self._sync_epochs = {**self._sync_epochs, tag: shard.sync_epoch}

    def mark_synced(self, tag: str, times_suspected: int) -> None:
        """All of a shard is parse_status, unless a suspicion has come up since there were so many."""
        with self.lock:
            if self.times_suspected == times_suspected:
                self.shards[tag].mark_synced()

    def mark_unsynced(self, tags: Iterable[str]) -> None:
        """It is no longer known whether these shards are current."""
        with self.lock:
            for tag in tags:
                self.shards[tag].synced = False

    def read(self, tag: str, entries: Sequence[tuple[bytes, Sequence[bytes]]], at_tail: bool, now: float) -> None:
        shard = self.shards[tag]
        with self.lock:
            if entries:
                # All that is known of their age: they were appended since the end of the feed was last seen. To take
                # a room to be due too early costs a look; too late keeps a ghost.
                shard.read(entries, now if now - shard.reached < STALE_AFTER else shard.reached)
            if at_tail:
                shard.at_tail = shard.reached = now

    def snapshot(self, tag: str, feed_id: bytes, rooms: Sequence[int], reply: Sequence[Any], now: float) -> None:
        shard = self.shards.get(tag)
        if shard is not None:
            with self.lock:
                shard.snapshot(number_of(feed_id), rooms, reply, now)

    def uncertain(self, tag: str) -> list[int]:
        """Rooms that the feed alone does not tell goal about: they must be read, and stay here until then."""
        shard = self.shards[tag]
        if not shard.uncertain:
            return []
        with self.lock:
            return list(shard.uncertain)

    def due(self, tag: str, now: float, limit: int) -> list[int]:
        """Rooms that should have expired by now: whether they have is for the server to say. Of those that are of
        interest no more, nothing that it says would be heard: they are forgotten."""
        shard = self.shards[tag]
        with self.lock:
            rooms = shard.expiry.due(now, limit)
            wanted = [room for room in rooms if shard.is_relevant(room)]
            for room in set(rooms).difference(wanted):
                shard.forget(room)
            return wanted

    # What the store says: Executor's observer

    def sync_epochs(self) -> SyncEpochs:
        """A mark of this moment, to be taken before a call is sent."""
        return self._sync_epochs

    def observe_write(self, mark: SyncEpochs, call: Call, feed_id: bytes, reply: Sequence[Any], now: float) -> None:
        """A reply that says how rooms are, true at ``feed_id``. One to a call from before a fresh start is ignored."""
        shard = self.shards.get(call.tag)
        if shard is None or call.spec.statuses_after is None:
            return
        at = number_of(feed_id)
        with self.lock:
            if mark.get(call.tag) != shard.sync_epoch:
                return  # it may be from another server, whose ids mean nothing here
            if call.spec is self.read_spec:
                shard.snapshot(at, call.rooms, reply, now)
            else:
                shard.observe_write(at, call, reply, now)

    def connection_lost(self) -> None:
        """The store has lost a connection: perhaps the server is another now, or about to be."""
        with self.lock:
            self.times_suspected += 1
            for shard in self.shards.values():
                shard.synced = False

    # Waiting

    def enter(self, room: int, goal: frozenset[KVPoll], wake: Callable[[], object], armed: bool) -> Waiter:
        """Wait for a room. Unless ``armed`` already, the wait begins to count when ``arm`` is called."""
        waiter = Waiter(room, keys.tag(self.context.namespace, self.context.shards, room), goal, wake)
        with self.lock:
            self.shards[waiter.tag].enter(waiter)
            if armed:
                self.shards[waiter.tag].arm(waiter)
        return waiter

    def arm(self, waiter: Waiter) -> None:
        """The waiter's room has been read since it entered, and the reply was given to ``wrote``."""
        with self.lock:
            if waiter in self.shards[waiter.tag].waiters.get(waiter.room, ()):
                self.shards[waiter.tag].arm(waiter)

    def result(self, waiter: Waiter, seconds: float | None) -> KVPoll:
        """What a wait comes to that has ended, or whose ``seconds`` are over."""
        outcome = waiter.outcome
        if outcome is None:
            raise WaitTimeoutError(waiter.room, self.statuses.get(waiter.room), seconds or 0.0)
        if isinstance(outcome, KVPollError):
            raise outcome
        return outcome

    def leave(self, waiter: Waiter) -> None:
        with self.lock:
            self.shards[waiter.tag].leave(waiter)

    def end(self, error: KVPollError) -> None:
        """Nothing more will be heard: every wait ends with ``error``."""
        with self.lock:
            for shard in self.shards.values():
                shard.synced = False
                for waiters in shard.waiters.values():
                    for waiter in waiters:
                        waiter.settle(error)
