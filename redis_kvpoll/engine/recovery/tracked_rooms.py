"""The rooms that a store tracks: their last known state, from which they are replayed after a loss of data.

A store tracks the rooms that it has opened or attached, from the replies to its own calls (see ``tracking``). Times are
seconds of the monotonic clock. Loops over rooms are over copies: a signal handler or finalizer may open others there.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from redis_kvpoll.engine.recovery.marks import Mark
from redis_kvpoll.engine.recovery.tracked_state import Loss, Role, TrackedRoom, replay_item
from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol import script_specs as specs
from redis_kvpoll.protocol.feed_ids import NOWHERE
from redis_kvpoll.protocol.script_call import Call, CallContext, Identity

MAX_REPLAYED = specs.REPLAY.max_rooms
"""Rooms per call."""
CREATOR_TIMEOUT = 10.0
"""Seconds that an attached room waits for its creator's replay, before which the creator must reconnect."""
CREATOR_POLL_INTERVAL = 0.05
"""Seconds between replays of such a room."""
MAX_REPLAYS_PER_SECOND = 10_000
"""The limit for rooms that await their creator, so that their replays do not delay other calls."""
RECENT = 60.0
"""Seconds: no replica is further behind, as in survival.lua."""
SWEEP_EVERY = 1000
"""New rooms between two removals of expired ones."""

CREATORS, OTHERS = frozenset[Role]({"creator"}), frozenset[Role]({"attached", "cleared"})
_ROLES = CREATORS | OTHERS
FeedEnd = int
"""The id of the feed's last entry at some moment."""
_ANY_END: FeedEnd = NOWHERE


class TrackedRooms:
    """The tracked rooms of one store, by shard and room. ``ttl`` and ``terminal_ttl`` are seconds."""

    def __init__(self, ttl: float, terminal_ttl: float, has_rank: bool) -> None:
        self.ttl = ttl
        self._terminal_ttl = terminal_ttl
        self.has_rank = has_rank
        self.shards: dict[str, dict[int, TrackedRoom]] = {}
        """By shard: its rooms."""
        self._sweep_at = SWEEP_EVERY
        self._to_replay: dict[str, dict[int, Loss]] = {}
        self._awaiting_creator: dict[str, dict[int, Loss]] = {}
        """By shard: rooms that are still to be replayed, and rooms whose replay awaits their creator."""
        self.unmarked: dict[str, dict[int, FeedEnd | None]] = {}
        """By shard: rooms of which something was learned that left no entry in the feed, since their mark. And the end
        of the feed behind which their next mark must be; None until it is known."""
        self.awaiting_shards: dict[str, float] = {}
        """The shards with rooms that await their creator, and when to replay them again."""
        self.highest_generation = 0
        """The highest generation that this store has seen."""

    @classmethod
    def of(cls, identity: Identity, has_rank: bool) -> TrackedRooms:
        """Return none yet, with the TTLs of a store."""
        return cls(int(identity.ttl_ms) / 1000, int(identity.terminal_ttl_ms) / 1000, has_rank)

    def __bool__(self) -> bool:
        return bool(self.shards)

    def __len__(self) -> int:
        return sum(map(len, self.shards.values()))

    @property
    def tags(self) -> Iterable[str]:
        return self.shards.keys()

    def in_shard(self, tag: str) -> dict[int, TrackedRoom]:
        """Return the tracked rooms of a shard."""
        return self.shards.get(tag, {})

    def awaits_creator(self, room: int) -> bool:
        """Whether a room awaits its creator's replay. One that is cleared here may, but its user does not."""
        return bool(self.awaiting_shards) and any(
            tracked.awaiting_since is not None and tracked.role != "cleared"
            for rooms_here in list(self.shards.values())
            if (tracked := rooms_here.get(room))
        )

    def holds(self, tag: str, room: int, now: float) -> bool:
        """Whether a room is tracked, and was neither cleared here nor has expired."""
        tracked = self.in_shard(tag).get(room)
        return tracked is not None and not tracked.is_clearing and tracked.role != "cleared" and tracked.until > now

    def forget(self) -> None:
        """Drop all rooms, because the lease was lost and they were failed."""
        self.shards, self.awaiting_shards, self._to_replay, self._awaiting_creator = {}, {}, {}, {}

    # Tracking

    def track(self, tag: str, room: int, tracked: TrackedRoom, now: float) -> TrackedRoom:
        """Track a room, and return what is tracked: what is known of this generation is kept."""
        self.highest_generation = max(self.highest_generation, tracked.generation)
        rooms_here = self.shards.setdefault(tag, {})
        old = rooms_here.get(room)
        if old and old.generation == tracked.generation and not old.is_clearing:
            old.role = "creator" if tracked.role == "creator" else old.role
            old.request = old.request or tracked.request  # an attached room's is not known
            self.merge_status(old, tracked.status, now)
            return old
        rooms_here[room] = tracked
        self.merge_status(tracked, tracked.status, now)
        if len(rooms_here) > self._sweep_at:
            until = now - self.ttl / 2  # the touches of a lease, each third of a TTL, ask for expired rooms
            for expired in [room for room, other in list(rooms_here.items()) if other.until <= until]:
                del rooms_here[expired]
            self._sweep_at = len(rooms_here) * 2 + SWEEP_EVERY
        return tracked

    def own(self, tag: str, room: int, generation: int) -> None:
        """Bring back a generation that is attached here, after a loss, as the store does that has opened it."""
        tracked = self.in_shard(tag).get(room)
        if tracked is not None and tracked.generation == generation:
            tracked.role = "creator"

    def end(self, tag: str, room: int, generation: int, now: float) -> None:
        """Note that the last rank of a generation has cleared it.

        Nobody is left for whom a status would count, but a server that is behind may still have the room.
        """
        tracked = self.in_shard(tag).get(room)
        if tracked is not None and tracked.generation == generation:
            tracked.is_over, tracked.until = True, min(tracked.until, now + RECENT)

    def fail(self, tag: str, room: int, generation: int, reason: str, now: float) -> None:
        """Note that a generation has failed, as a follower's thread has read: it is brought back as Failed."""
        tracked = self.in_shard(tag).get(room)
        if tracked is None or tracked.generation != generation or tracked.is_over:
            return
        if tracked.status is not KVPoll.Failed:
            self.merge_status(tracked, KVPoll.Failed, now)
            tracked.reason = reason

    def merge_status(self, tracked: TrackedRoom, status: KVPoll | None, now: float) -> None:
        """Merge a status from a reply into what is known of a room."""
        if status is None:
            return
        if tracked.status is not None and tracked.role == "cleared":
            pass  # the last status of a rank that has cleared: what it reads until its replay is the others'
        elif tracked.awaiting_since is None or tracked.status is None:
            tracked.status = status
        elif KVPoll.Failed in (tracked.status, status):
            tracked.status = KVPoll.Failed
        else:  # the known status has yet to be replayed, so a lower one must not replace it
            tracked.status = max(tracked.status, status)
        if tracked.status is not KVPoll.Failed:
            tracked.reason = ""  # a plain write has taken it out of Failed
        tracked.until = now + (self._terminal_ttl if tracked.status in TERMINAL else self.ttl)

    def mark_room_clearing(self, tag: str, room: int, fence: str) -> None:
        """Note that a clear of a room is sent: until its reply it is not created again. ``fence`` is its generation,
        empty for any."""
        tracked = self.in_shard(tag).get(room)
        # A clear through an old handle does not affect a later generation.
        if tracked and tracked.is_of(fence):
            tracked.is_clearing = True

    def mark(self, tag: str, room: int, tracked: TrackedRoom, mark: Mark | None) -> None:
        """Note that the server has had at this mark whatever was learned of a room so far."""
        tracked.written = mark
        self.unmarked.get(tag, {}).pop(room, None)

    def mark_end(self, tag: str, room: int, tracked: TrackedRoom, end: Mark | None) -> None:
        """Note that the feed ends at this mark: as ``mark``, unless that may be older than what was learned."""
        unmarked = self.unmarked.get(tag, {})
        former = unmarked.get(room, _ANY_END)
        if end is None or (former is not None and end.id > former):
            self.mark(tag, room, tracked, end)
        elif former is None:
            unmarked[room] = end.id

    def unmark(self, tag: str, room: int, end: FeedEnd | None = _ANY_END) -> None:
        """Note that something was learned of a room, or changed, without an entry in the feed.

        Another's status has an entry, so wherever the feed ends now, it has that. A length has none: only what is
        behind the ``end`` that the feed had after it shows that a server has it. None if that end is not known yet.
        """
        unmarked, rooms_here = self.unmarked.setdefault(tag, {}), self.in_shard(tag)
        if end != _ANY_END or room not in unmarked:
            unmarked[room] = end
        if len(unmarked) > 2 * len(rooms_here) + SWEEP_EVERY:
            self.unmarked[tag] = {other: end for other, end in unmarked.copy().items() if other in rooms_here}

    def mark_all(self, tag: str, mark: Mark) -> None:
        """Note that the feed of a shard ends at this mark, for all its rooms.

        Not for those that are still to be replayed, or await their creator: the server may not have those at all.
        """
        rooms_here, to_replay = self.in_shard(tag), self._to_replay.get(tag, {})
        unmarked = self.unmarked.get(tag, {})
        for room in list(unmarked):
            tracked = rooms_here.get(room)
            if tracked is None:
                unmarked.pop(room, None)
            elif tracked.awaiting_since is None and room not in to_replay:
                self.mark_end(tag, room, tracked, mark)

    # Replay

    def data_lost(self, tag: str, now: float, with_ended: bool = False) -> int:
        """Note that a shard has lost all data, or what nothing tells. Returns the number of rooms to be replayed.

        ``with_ended``: those that all ranks have cleared may be there.
        """
        self._restart_waits(tag, now)
        rooms_here = self.in_shard(tag).copy()
        self._to_replay[tag] = {room: "data" for room, it in rooms_here.items() if with_ended or not it.is_over}
        return len(self._to_replay[tag])

    def server_changed(self, tag: str, kept: Mark | None, now: float) -> int:
        """Note that a shard has another server, which has all that it had at the mark ``kept`` (if any).

        Returns the number of rooms that may have lost something. Rooms that were to be replayed before stay so: their
        marks belong to another branch of the history than ``kept``.
        """
        self._restart_waits(tag, now)
        rooms_here, to_replay = self.in_shard(tag).copy(), self._to_replay.setdefault(tag, {})
        unmarked, found = self.unmarked.get(tag, {}), 0
        kept_until = kept.id if kept else NOWHERE
        for room, tracked in rooms_here.items():
            if to_replay.get(room, "none") != "none":
                found += 1
            elif tracked.written is None or tracked.written.id > kept_until:
                to_replay[room] = "server"
                found += 1
            elif room in unmarked:
                to_replay[room] = "none"
        return found

    def _restart_waits(self, tag: str, now: float) -> None:
        """Let rooms that await their creator wait for it anew."""
        rooms_here = self.in_shard(tag)
        for room, loss in self._awaiting_creator.pop(tag, {}).items():
            if (tracked := rooms_here.get(room)) and tracked.awaiting_since is not None:
                tracked.awaiting_since = now
                self._to_replay.setdefault(tag, {}).setdefault(room, loss)

    def replays(
        self, tag: str, context: CallContext, now: float, roles: frozenset[Role] = _ROLES, held: Container[int] = ()
    ) -> Iterator[Call]:
        """Yield the calls that replay the rooms of some roles which are due, and those that await their creator.

        Those in ``held``, by their ``id()``, await it even if that is this store. After an interruption, the next run
        continues with the rooms whose replay has no reply.
        """
        rooms_here, to_replay, due = self.in_shard(tag), self._to_replay.get(tag, {}), {}
        for room, loss in {**self._awaiting_creator.get(tag, {}), **to_replay}.items():
            tracked = rooms_here.get(room)
            is_waiting = tracked is not None and tracked.awaiting_since is not None
            # One that is over was kept for this, however long the server was away.
            is_expired = tracked is not None and tracked.until <= now and not tracked.is_over
            is_late = tracked is not None and now - (tracked.awaiting_since or now) > CREATOR_TIMEOUT
            if tracked and (is_expired or (is_late and not tracked.is_own)):
                del rooms_here[room]
                is_waiting = False
            elif (
                tracked
                and tracked.status is not None
                and (is_waiting or room in to_replay)
                and (self.has_rank or not tracked.is_clearing)  # the status of a rank counts after its clear, too
            ):
                if (role := tracked.replay_role(id(tracked) in held)) in roles:
                    due[room] = tracked, loss, role
                continue
            self.replayed(tag, room, is_waiting)
        self.schedule_retry(tag, now)
        rooms = list(due)
        for at in range(0, len(rooms), MAX_REPLAYED):
            chunk = rooms[at : at + MAX_REPLAYED]
            items = [word for room in chunk for word in replay_item(*due[room])]
            yield specs.REPLAY.call(context, tag, chunk, items, ())

    def replayed(self, tag: str, room: int, is_waiting: bool) -> None:
        """Note that a room was replayed; it is due again if it awaits its creator."""
        loss = self._to_replay.get(tag, {}).pop(room, None)
        if is_waiting:
            self._awaiting_creator.setdefault(tag, {}).setdefault(room, loss or "server")
        else:
            self._awaiting_creator.get(tag, {}).pop(room, None)

    def schedule_retry(self, tag: str, now: float) -> None:
        """Set when the rooms of a shard that await their creator are replayed again."""
        if awaiting := self._awaiting_creator.get(tag):
            self.awaiting_shards[tag] = now + max(CREATOR_POLL_INTERVAL, len(awaiting) / MAX_REPLAYS_PER_SECOND)
        else:
            self.awaiting_shards.pop(tag, None)


# Looked up per room: properties of an enum's members are slow.
TERMINAL = frozenset(status for status in KVPoll if status.is_terminal)
