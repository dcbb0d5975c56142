"""The words of the table: a room's status, and what a call did to it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


class KVPoll(enum.IntEnum):
    """The status of one request's KV-cache transfer, with SGLang's numbers."""

    Failed = 0
    Bootstrapping = 1
    WaitingForInput = 2
    Transferring = 3
    Success = 4

    @property
    def is_terminal(self) -> bool:
        """True for Success and Failed: the room only waits to be cleared."""
        return self in (KVPoll.Success, KVPoll.Failed)


class Outcome(enum.Enum):
    """What one call did, apart from the state the room is in now.

    The values are the reply codes of the Lua scripts.
    """

    CREATED = 1
    """The room was absent; now it has the given status."""
    ADVANCED = 2
    """The room moved on to the given status."""
    UNCHANGED = 3
    """The room was already there, or further; nothing was written."""
    FAILED = 4
    """The room became Failed."""
    SKIPPED = 5
    """The room is absent and this status may not create it; nothing was written."""
    STALE = 6
    """The write belonged to another generation of the room; nothing was written."""
    CLEARED = 7
    """The room is no more; for one of several ranks, what was this rank's of it."""


class Refusal(enum.Enum):
    """Why a script refused a call, where that raises an error. The values are reply codes, beside those of Outcome."""

    BUSY = -1
    LEASE = -2
    WORLD_SIZE = -3


class Update(NamedTuple):
    """The answer to a write: what this call did, and the status that the room has now.

    ``status`` is None when the room is absent. After CLEARED it is the one that the room had.
    """

    outcome: Outcome
    status: KVPoll | None

    @property
    def changed(self) -> bool:
        """True when this call wrote something."""
        return self.outcome in (Outcome.CREATED, Outcome.ADVANCED, Outcome.FAILED)


class Consensus(NamedTuple):
    """What the ranks of a room agree on.

    Any rank Failed: Failed; a rank missing: Bootstrapping; else the lowest. Of two of them the later one has the higher
    (generation, version); the version grows with every write of a rank. A room without ranks agrees with itself, and
    has version 0. None, 0 and 0 when the room is absent.
    """

    status: KVPoll | None
    generation: int
    version: int


@dataclass(frozen=True, slots=True)
class Entry:
    """All that the table knows of one room, read in one atomic step.

    Times are Unix times of the Redis server in seconds; ``ttl`` is the seconds that the entry has left
    (infinite only when somebody took its TTL away by hand).
    """

    room: int
    status: KVPoll
    opened_at: float
    updated_at: float
    ttl: float
    reason: str | None = None
    decode_prefix_len: int | None = None
    generation: int | None = None
    failed_by: str | None = None
    """Who failed it: an owner, a rank, or both."""
    request: str | None = None
    """The request that it was opened for."""
    owner: str | None = None
    """The name of the lease under which it was opened."""
    world_size: int | None = None
    """How many ranks it has; ``status`` is then what they agree on."""
    ranks: Mapping[int, KVPoll] = field(default_factory=dict)
    """The status of each rank that has been heard of."""
    cleared: frozenset[int] = frozenset()
    """Those of the ranks that have cleared; their last status still counts."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A lease, as all can see it. Times are Unix times of the Redis server, and durations, in seconds."""

    name: str
    incarnation: int
    """When it was taken, in microseconds; the rooms that were created under it have it, too."""
    ttl: float = 0.0
    heartbeat: float = 0.0
    last_heartbeat_at: float = 0.0
    """The last heartbeat."""
    state: Literal["alive", "expired", "suspected", "lost"] = "alive"
    """A lease that has lapsed is marked by the first look, and lost by a later one; then its rooms are failed."""
    reason: str = ""
    """Why its rooms are failed, when it is lost."""
    rooms: int = 0
    """Live rooms that it owns."""

    @property
    def since(self) -> float:
        """When the lease was taken."""
        return self.incarnation / 1e6
