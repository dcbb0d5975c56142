"""The rooms that a store tracks: their last known state, from which they are replayed after a loss of data.

A store tracks the rooms that it has opened or attached, from the replies to its own calls. Times are seconds of the
monotonic clock. To track another script: add its observer to _OBSERVERS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from redis_kvpoll.model import KVPoll, Outcome, Refusal
from redis_kvpoll.protocol import script_specs as specs
from redis_kvpoll.protocol.replies import parse_status
from redis_kvpoll.protocol.script_call import MAX_BATCH, Call, CallContext

CREATOR_TIMEOUT = 10.0
"""Seconds that an attached room waits for its creator's replay, before which the creator must reconnect."""
CREATOR_POLL_INTERVAL = 0.05
"""Seconds between replays of such a room."""
MAX_REPLAYS_PER_SECOND = 10_000
"""The limit for rooms that await their creator, so that their replays do not delay other calls."""
SWEEP_EVERY = 1000
"""New rooms between two removals of expired ones."""

Role = Literal["creator", "attached", "cleared"]


@dataclass(slots=True)
class TrackedRoom:
    """The last known state of one generation of a room."""

    generation: int
    request: str
    role: Role
    """As in replay.lua: only a creator re-creates a lost room. A cleared rank's last status still counts."""
    status: KVPoll | None
    until: float
    """The end of its TTL, as far as this store knows. An expired room is not replayed."""
    reason: str = ""
    length: str = ""
    is_clearing: bool = False
    """Whether a clear was sent. Such a room is not replayed."""
    awaiting_since: float | None = None
    """Since when the replay awaits the creator; None if it does not."""


class TrackedRooms:
    """The tracked rooms of one store, by shard and room. ``ttl`` and ``terminal_ttl`` are seconds."""

    def __init__(self, ttl: float, terminal_ttl: float, has_rank: bool) -> None:
        self._ttl = ttl
        self._terminal_ttl = terminal_ttl
        self._has_rank = has_rank
        self._shards: dict[str, dict[int, TrackedRoom]] = {}
        self._sweep_at = SWEEP_EVERY
        self._to_replay: dict[str, dict[int, None]] = {}
        self._awaiting_creator: dict[str, dict[int, None]] = {}
        """By shard: rooms that are still to be replayed, and rooms whose replay awaits their creator."""
        self.awaiting_shards: dict[str, float] = {}
        """The shards with rooms that await their creator, and when to replay them again."""
        self.highest_generation = 0
        """The highest generation that this store has seen."""

    def __bool__(self) -> bool:
        return bool(self._shards)

    def __len__(self) -> int:
        return sum(map(len, self._shards.values()))

    @property
    def tags(self) -> Iterable[str]:
        return self._shards.keys()

    def in_shard(self, tag: str) -> dict[int, TrackedRoom]:
        """Return the tracked rooms of a shard."""
        return self._shards.get(tag, {})

    def awaits_creator(self, room: int) -> bool:
        """Whether a room awaits its creator's replay."""
        return bool(self.awaiting_shards) and any(
            tracked.awaiting_since is not None
            for rooms_here in list(self._shards.values())
            if (tracked := rooms_here.get(room))
        )

    # Replay

    def mark_lost(self, tag: str, now: float) -> None:
        """Note that a shard may have lost its data: all its tracked rooms are to be replayed."""
        rooms_here = self.in_shard(tag)
        for room in self._awaiting_creator.pop(tag, ()):
            if (tracked := rooms_here.get(room)) and tracked.awaiting_since is not None:
                tracked.awaiting_since = now
        self._to_replay[tag] = dict.fromkeys(rooms_here)

    def replays(self, tag: str, context: CallContext, now: float) -> Iterator[Call]:
        """Yield the calls that replay the rooms which are due, and those that await their creator.

        After an interruption, the next run continues with the rooms whose replay has no reply.
        """
        rooms_here, to_replay, due = self.in_shard(tag), self._to_replay.get(tag, {}), {}
        for room in {**to_replay, **self._awaiting_creator.get(tag, {})}:
            tracked = rooms_here.get(room)
            is_waiting = tracked is not None and tracked.awaiting_since is not None
            if tracked and (tracked.until <= now or now - (tracked.awaiting_since or now) > CREATOR_TIMEOUT):
                del rooms_here[room]
                is_waiting = False
            elif (
                tracked and tracked.status is not None and not tracked.is_clearing and (is_waiting or room in to_replay)
            ):
                due[room] = tracked
                continue
            self._note_replayed(tag, room, is_waiting)
        self._schedule_retry(tag, now)
        rooms = list(due)
        for at in range(0, len(rooms), MAX_BATCH):
            chunk = rooms[at : at + MAX_BATCH]
            items = [word for room in chunk for word in _replay_item(due[room])]
            yield specs.REPLAY.call(context, tag, chunk, items, ())

    def _note_replayed(self, tag: str, room: int, is_waiting: bool) -> None:
        """Note that a room was replayed; it is due again if it awaits its creator."""
        self._to_replay.get(tag, {}).pop(room, None)
        if is_waiting:
            self._awaiting_creator.setdefault(tag, {})[room] = None
        else:
            self._awaiting_creator.get(tag, {}).pop(room, None)

    def _schedule_retry(self, tag: str, now: float) -> None:
        if awaiting := self._awaiting_creator.get(tag):
            self.awaiting_shards[tag] = now + max(CREATOR_POLL_INTERVAL, len(awaiting) / MAX_REPLAYS_PER_SECOND)
        else:
            self.awaiting_shards.pop(tag, None)

    def mark_clearing(self, call: Call) -> None:
        """Note that a clear of these rooms is sent. Whatever its outcome, they are no longer replayed."""
        rooms_here = self._shards.get(call.tag)
        if rooms_here:
            for room, fence in zip(call.rooms, call.items, strict=True):
                tracked = rooms_here.get(room)
                # A clear through an old handle does not affect a later generation.
                if tracked and fence in ("", str(tracked.generation)):
                    tracked.is_clearing = True

    def forget(self) -> None:
        """Drop all rooms, because the lease was lost and they were failed."""
        self._shards, self.awaiting_shards, self._to_replay, self._awaiting_creator = {}, {}, {}, {}

    # Replies

    def observe(self, call: Call, reply: Sequence[Any], now: float) -> None:
        """Update the rooms from the reply to a call of this store. The reply must come from a verified shard."""
        observer = _OBSERVERS.get(call.spec.script.name)
        if observer is not None:
            observer(self, call, reply, now)

    def _observe_open(self, call: Call, reply: Sequence[Any], now: float) -> None:
        for room, at in zip(call.rooms, range(0, len(reply), 6), strict=True):
            code, status, generation, request = reply[at], reply[at + 1], reply[at + 2], reply[at + 5]
            if code > 0 and generation:
                created = TrackedRoom(int(generation), request.decode(), "creator", parse_status(status), now)
                self._track(call.tag, room, created, now)

    def _observe_attach(self, call: Call, reply: Sequence[Any], now: float) -> None:
        rooms_here = self.in_shard(call.tag)
        for room, at in zip(call.rooms, range(0, len(reply), 4), strict=True):
            status, generation, request = reply[at], int(reply[at + 1] or 0), reply[at + 2]
            tracked = rooms_here.get(room)
            if tracked and tracked.generation > generation and tracked.awaiting_since is None:
                del rooms_here[room]  # cleared or expired
            elif (
                generation and (tracked is None or tracked.generation < generation) and parse_status(status) is not None
            ):
                request = request.decode() if request else ""
                self._track(
                    call.tag, room, TrackedRoom(generation, request, "attached", parse_status(status), now), now
                )
            elif tracked and tracked.generation == generation:
                self._merge_status(tracked, parse_status(status), now)

    def _observe_write(self, call: Call, reply: Sequence[Any], now: float) -> None:
        """Process a write: fenced ones, and plain ones to tracked rooms, whose replies have the status, too."""
        rooms_here = self.in_shard(call.tag)
        width = len(call.spec.item)
        for number, room in enumerate(call.rooms):
            code, status = reply[number * 2], reply[number * 2 + 1]
            words = call.items[number * width : (number + 1) * width]
            generation = int(words[1] or 0) if call.spec is specs.WRITE else 0
            tracked = rooms_here.get(room)
            if tracked is None:
                if generation and code in _DONE and parse_status(status) is not None:
                    self._track(call.tag, room, TrackedRoom(generation, "", "attached", parse_status(status), now), now)
            elif generation and generation != tracked.generation:
                continue
            elif code == Refusal.LEASE.value or (generation and code == Outcome.STALE.value):
                if tracked.awaiting_since is None:
                    del rooms_here[room]
            elif code in _DONE:
                self._merge_status(tracked, parse_status(status), now)
                if code == Outcome.FAILED.value and call.spec is not specs.UPDATE:
                    tracked.reason = tracked.reason or words[-1]

    def _observe_replay(self, call: Call, reply: Sequence[Any], now: float) -> None:
        rooms_here = self.in_shard(call.tag)
        for room, code, status in zip(call.rooms, reply[::2], reply[1::2], strict=True):
            tracked = rooms_here.get(room)
            is_waiting = False
            if tracked is None:
                pass
            elif code == Outcome.SKIPPED.value:
                is_waiting = True
                tracked.awaiting_since = now if tracked.awaiting_since is None else tracked.awaiting_since
            elif code in _DONE:
                tracked.awaiting_since = None
                self._merge_status(tracked, parse_status(status), now)
            else:
                del rooms_here[room]
            self._note_replayed(call.tag, room, is_waiting)
        self._schedule_retry(call.tag, now)

    def _observe_clear(self, call: Call, reply: Sequence[Any], now: float) -> None:
        rooms_here = self.in_shard(call.tag)
        for room, code, fence in zip(call.rooms, reply[::3], call.items, strict=True):
            tracked = rooms_here.get(room)
            if tracked is None or (fence and int(fence) != tracked.generation):
                continue
            if self._has_rank and code == Outcome.CLEARED.value and tracked.status is not None:
                # The rank's last status still counts for the others. If all have cleared, the replay is ignored.
                tracked.role, tracked.is_clearing, tracked.until = "cleared", False, now + self._ttl
            elif tracked.awaiting_since is None:
                del rooms_here[room]

    def _observe_touch(self, call: Call, reply: Sequence[Any], now: float) -> None:
        rooms_here = self.in_shard(call.tag)
        for room, kept in zip(call.rooms, reply, strict=True):
            if kept == 1 and (tracked := rooms_here.get(room)):
                tracked.until = now + self._ttl

    def _observe_prefix(self, call: Call, reply: Sequence[Any], now: float) -> None:
        rooms_here = self.in_shard(call.tag)
        for number, room in enumerate(call.rooms):
            length, generation = call.items[number * 2 : number * 2 + 2]
            tracked = rooms_here.get(room)
            if tracked and generation and int(generation) == tracked.generation and reply[number] == 1:
                tracked.length = length

    def _track(self, tag: str, room: int, tracked: TrackedRoom, now: float) -> None:
        """Track a room. What is known of this generation is kept."""
        self.highest_generation = max(self.highest_generation, tracked.generation)
        rooms_here = self._shards.setdefault(tag, {})
        old = rooms_here.get(room)
        if old and old.generation == tracked.generation and not old.is_clearing:
            old.role = "creator" if tracked.role == "creator" else old.role
            self._merge_status(old, tracked.status, now)
            return
        rooms_here[room] = tracked
        self._merge_status(tracked, tracked.status, now)
        if len(rooms_here) > self._sweep_at:
            for expired in [room for room, other in list(rooms_here.items()) if other.until <= now]:
                del rooms_here[expired]
            self._sweep_at = len(rooms_here) * 2 + SWEEP_EVERY

    def _merge_status(self, tracked: TrackedRoom, status: KVPoll | None, now: float) -> None:
        if status is None:
            return
        if tracked.awaiting_since is None or tracked.status is None:
            tracked.status = status
        elif KVPoll.Failed in (tracked.status, status):
            tracked.status = KVPoll.Failed
        else:  # the known status has yet to be replayed, so a lower one must not replace it
            tracked.status = max(tracked.status, status)
        tracked.until = now + (self._terminal_ttl if tracked.status.is_terminal else self._ttl)


_DONE = frozenset(outcome.value for outcome in Outcome) - {Outcome.SKIPPED.value, Outcome.STALE.value}
_OBSERVERS: dict[str, Callable[[TrackedRooms, Call, Sequence[Any], float], None]] = {
    specs.OPEN.script.name: TrackedRooms._observe_open,
    specs.ATTACH.script.name: TrackedRooms._observe_attach,
    specs.UPDATE.script.name: TrackedRooms._observe_write,
    specs.WRITE.script.name: TrackedRooms._observe_write,
    specs.ABORT.script.name: TrackedRooms._observe_write,
    specs.REAP.script.name: TrackedRooms._observe_write,
    specs.REPLAY.script.name: TrackedRooms._observe_replay,
    specs.CLEAR.script.name: TrackedRooms._observe_clear,
    specs.TOUCH.script.name: TrackedRooms._observe_touch,
    specs.SET_PREFIX.script.name: TrackedRooms._observe_prefix,
}
CLEARING = (specs.CLEAR, specs.CLEAR_FENCED)


def _replay_item(tracked: TrackedRoom) -> tuple[str, ...]:
    """Return the arguments of a room in a call of specs.REPLAY."""
    status = tracked.status.name if tracked.status is not None else ""
    reason = tracked.reason if tracked.status is KVPoll.Failed else ""
    return str(tracked.generation), tracked.request, status, reason, tracked.length, tracked.role
