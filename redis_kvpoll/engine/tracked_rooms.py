"""What a store holds of rooms: their generations, as it last knew them, to be said again when the server has lost them.

No I/O. Times are seconds of a clock that does not go back.
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
"""Seconds that a guest waits for the opener of its room, after a loss: that has to notice, too, and to come back."""
CREATOR_POLL_INTERVAL = 0.05
"""Seconds between its looks."""
MAX_REPLAYS_PER_SECOND = 10_000
"""Rooms a second, at most, that are said again in vain, so that nobody waits long behind them."""
SWEEP_EVERY = 1000
"""Claims between two looks for those that nobody ends."""

Role = Literal["creator", "attached", "cleared"]


@dataclass(slots=True)
class TrackedRoom:
    """One room in one generation."""

    generation: int
    request: str
    role: Role
    """As in replay.lua: only a creator creates a lost room again; the last status of a cleared rank still counts."""
    status: KVPoll | None
    until: float
    """When its TTL is over, as far as this store knows: what has expired is not brought back."""
    reason: str = ""
    length: str = ""
    is_clearing: bool = False
    """Whether a clear is under way."""
    awaiting_since: float | None = None
    """Restated, but the room is not there: its opener has not come back yet."""


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
        """What is still to be said of lost shards; and what was said, but waits for its opener."""
        self.awaiting_shards: dict[str, float] = {}
        """The shards with guests whose opener has not come back, and when to look for it again."""
        self.highest_generation = 0  # the highest generation that this store knows of

    def __bool__(self) -> bool:
        return bool(self._shards)

    def __len__(self) -> int:
        return sum(map(len, self._shards.values()))

    @property
    def tags(self) -> Iterable[str]:
        return self._shards.keys()

    def in_shard(self, tag: str) -> dict[int, TrackedRoom]:
        """What is held of a shard."""
        return self._shards.get(tag, {})

    def awaits_creator(self, room: int) -> bool:
        """Whether a room is to come back by its opener."""
        return bool(self.awaiting_shards) and any(
            tracked.awaiting_since is not None
            for rooms_here in list(self._shards.values())
            if (tracked := rooms_here.get(room))
        )

    # What to say

    def mark_lost(self, tag: str, now: float) -> None:
        """A shard may have lost what is held of it: all of that is to be said."""
        rooms_here = self.in_shard(tag)
        for room in self._awaiting_creator.pop(tag, ()):
            if (tracked := rooms_here.get(room)) and tracked.awaiting_since is not None:
                tracked.awaiting_since = now
        self._to_replay[tag] = dict.fromkeys(rooms_here)

    def replays(self, tag: str, context: CallContext, now: float) -> Iterator[Call]:
        """The calls that say what is still to be said of a shard, and again what was said in vain.

        Who is stopped in the midst of it goes on, the next time, with what was not answered.
        """
        rooms_here, to_replay, said = self.in_shard(tag), self._to_replay.get(tag, {}), {}
        for room in {**to_replay, **self._awaiting_creator.get(tag, {})}:
            tracked = rooms_here.get(room)
            waits = tracked is not None and tracked.awaiting_since is not None
            if tracked and (tracked.until <= now or now - (tracked.awaiting_since or now) > CREATOR_TIMEOUT):
                del rooms_here[room]
                waits = False
            elif tracked and tracked.status is not None and not tracked.is_clearing and (waits or room in to_replay):
                said[room] = tracked
                continue
            self._note_replayed(tag, room, waits)
        self._schedule_retry(tag, now)
        rooms = list(said)
        for at in range(0, len(rooms), MAX_BATCH):
            some = rooms[at : at + MAX_BATCH]
            items = [word for room in some for word in _replay_item(said[room])]
            yield specs.REPLAY.call(context, tag, some, items, ())

    def _note_replayed(self, tag: str, room: int, is_waiting: bool) -> None:
        """A room has been said; it is to be said again if it waits for its opener."""
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
        """These rooms are being cleared: whatever becomes of that, they are not to be brought back any more."""
        rooms_here = self._shards.get(call.tag)
        if rooms_here:
            for room, fence in zip(call.rooms, call.items, strict=True):
                tracked = rooms_here.get(room)
                if tracked and fence in (
                    "",
                    str(tracked.generation),
                ):  # through an old handle it ends no later generation
                    tracked.is_clearing = True

    def forget(self) -> None:
        """Whoever was taken for dead brings nothing back: the rooms were failed."""
        self._shards, self.awaiting_shards, self._to_replay, self._awaiting_creator = {}, {}, {}, {}

    # What is heard

    def observe(self, call: Call, reply: Sequence[Any], now: float) -> None:
        """The reply to a call of this store; it must be of the server that is parse_status, with its data."""
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
                del rooms_here[room]  # it was cleared, or has expired
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
        """Also of plain writes to rooms that are held: they are not fenced, but say how the rooms are."""
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
                # The others still agree with what this rank had; if they have all cleared, too, it will not be heard.
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
        """Hold a room. What is already known of this generation stays known."""
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
            for expired in [one for one, there in list(rooms_here.items()) if there.until <= now]:
                del rooms_here[expired]
            self._sweep_at = len(rooms_here) * 2 + SWEEP_EVERY

    def _merge_status(self, tracked: TrackedRoom, status: KVPoll | None, now: float) -> None:
        if status is None:
            return
        if tracked.awaiting_since is None or tracked.status is None:
            tracked.status = status
        elif KVPoll.Failed in (tracked.status, status):
            tracked.status = KVPoll.Failed
        else:  # what this store knows has yet to be said, and is not to be forgotten for what is there now
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
    """What specs.REPLAY says of a room."""
    status = tracked.status.name if tracked.status is not None else ""
    reason = tracked.reason if tracked.status is KVPoll.Failed else ""
    return str(tracked.generation), tracked.request, status, reason, tracked.length, tracked.role
