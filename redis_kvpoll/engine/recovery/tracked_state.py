"""One tracked room: what a store knows of it, and the arguments by which replay.lua restores it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from redis_kvpoll.engine.recovery.marks import Mark
from redis_kvpoll.model import KVPoll

MAX_OPENINGS = 8
"""Failovers of which a room remembers the entry that tells its opening."""

Role = Literal["creator", "attached", "cleared"]
Loss = Literal["data", "server", "none"]
"""What a shard may have lost, as replay.lua takes it: all data; what came after the room's marks, for the script to
decide; or nothing that left a trace in the feed."""


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
    openings: tuple[Mark, ...] = ()
    """The entries that tell its opening: one for each server that this store has found without it."""
    written: Mark | None = None
    """A mark as of which the server has had all of this; None if there was none yet."""
    changed: Mark | None = None
    """The entry of its last change by this store. A replay is none."""
    is_clearing: bool = False
    """Whether a clear was sent, and has no reply yet. Such a room is not created again."""
    is_over: bool = False
    """Whether its last rank has cleared it. Then it matters only to a server that has lost that."""
    has_ended: bool = False
    """Whether a touch has found it at its end, to which another process may have brought it."""
    awaiting_since: float | None = None
    """Since when the replay awaits the creator; None if it does not."""

    def replay_role(self, is_held: bool) -> Role:
        """Return the role with which it is replayed; ``is_held`` if its clear comes next, so that nobody needs it."""
        return "attached" if (self.is_clearing or is_held) and self.role == "creator" else self.role

    @property
    def is_own(self) -> bool:
        """Whether this store is the creator that a replay would await, and has sent no clear of it."""
        return self.role == "creator" and not self.is_clearing

    def is_of(self, fence: str) -> bool:
        """Whether a clear affects it; ``fence`` is the generation that it clears, empty for any."""
        return fence in ("", str(self.generation))

    def add_opening(self, room: int, feed_id: bytes | None) -> None:
        """Add the entry that tells its opening, as a reply names it."""
        if feed_id and (mark := Mark(feed_id, room, b"%d" % self.generation)) not in self.openings:
            self.openings = (*self.openings, mark)[-MAX_OPENINGS:]


def replay_item(tracked: TrackedRoom, loss: Loss, role: Role) -> tuple[str, ...]:
    """Return the arguments of a room in a call of specs.REPLAY."""
    status = tracked.status
    name, reason = _NAMES[status], tracked.reason if status is KVPoll.Failed else ""
    opened = " ".join(map(str, tracked.openings)) if loss == "server" else ""
    written = str(tracked.written or "")
    generation = str(tracked.generation)
    changed = tracked.changed or tracked.written
    updated = changed.feed_id.partition(b"-")[0].decode() if changed else ""
    return generation, tracked.request, name, reason, tracked.length, role, loss, opened, written, updated


# Looked up per room: properties of an enum's members are slow.
_NAMES: dict[KVPoll | None, str] = {None: "", **{status: status.name for status in KVPoll}}
