"""The values that calls take and return: statuses, outcomes, entries, owners."""

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
        """True for Success and Failed: the transfer is over."""
        return self in (KVPoll.Success, KVPoll.Failed)


class Outcome(enum.Enum):
    """What one call did, as opposed to the status that the room has now.

    The values are the reply codes of the Lua scripts.
    """

    CREATED = 1
    """The room was absent and now has the given status."""
    ADVANCED = 2
    """The room advanced to the given status."""
    UNCHANGED = 3
    """The room already had that status or a later one; nothing was written."""
    FAILED = 4
    """The room became Failed."""
    SKIPPED = 5
    """The room is absent, and this status may not create it; nothing was written."""
    STALE = 6
    """The write belongs to another generation of the room; nothing was written."""
    CLEARED = 7
    """The room was deleted; with several ranks, this rank's part of it."""


class Refusal(enum.Enum):
    """Why a script refused a call, where that raises an error. The values are reply codes next to Outcome's."""

    BUSY = -1
    LEASE = -2
    WORLD_SIZE = -3
    CORRUPT = -4


class Ending(enum.Enum):
    """What a script says of a clear that ended a room. The value is a reply code next to Outcome's."""

    ENDED = 8
    """CLEARED by the last rank: the key was deleted. Callers get CLEARED."""


class Update(NamedTuple):
    """The result of a write: what the call did, and the status that the room has now.

    ``status`` is None when the room is absent. After CLEARED it is the last status of the room.
    """

    outcome: Outcome
    status: KVPoll | None

    @property
    def changed(self) -> bool:
        """True when the call created, advanced or failed the room."""
        return self.outcome in (Outcome.CREATED, Outcome.ADVANCED, Outcome.FAILED)


class DataLosses(NamedTuple):
    """How often a store has found that the server had lost data, and what it did about it."""

    losses: int
    restored: int
    """The rooms that it restored, in part or as a whole."""


class Consensus(NamedTuple):
    """The combined status of a room's ranks.

    It is Failed if any rank is, Bootstrapping while a rank is missing, else the lowest status. The version grows with
    every write of a rank, so the later of two results has the higher (generation, version), unless a failover has lost
    a write between them. Without ranks it is the room's own status, with version 0. An absent room has None, 0 and 0.
    """

    status: KVPoll | None
    generation: int
    version: int


@dataclass(frozen=True, slots=True)
class Entry:
    """All fields of one room, read atomically.

    Times are Unix times of the Redis server, in seconds. ``ttl`` is the remaining time to live in seconds; it is
    infinite only if the TTL was removed by hand.
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
    """What failed the room: an owner, a rank, or both."""
    request: str | None = None
    """The request that the room was opened for."""
    owner: str | None = None
    """The name of the lease under which the room was created."""
    world_size: int | None = None
    """The number of ranks; ``status`` is then their consensus."""
    ranks: Mapping[int, KVPoll] = field(default_factory=dict)
    """The status of each rank that has written one."""
    cleared: frozenset[int] = frozenset()
    """The ranks that have cleared; their last status still counts."""
    restored_at: float | None = None
    """When it was restored after a loss of data; ``opened_at`` is then the time of its generation."""
    rank_leases: Mapping[int, int] = field(default_factory=dict)
    """The incarnation of the lease under which each rank takes part, until its own Success, Failed or clear."""
    opening: str | None = None
    """The id of the feed's entry that tells the opening; after a loss, of its restore. Without a feed, its time in that
    form. None for a plain room."""


class RoomFailure(NamedTuple):
    """One failure of one generation of a room. What is not known is None."""

    room: int
    generation: int
    """The generation that failed; 0 for a room that was made by hand."""
    request: str | None = None
    owner: str | None = None
    by: str | None = None
    """Who failed it: an owner, a rank, or both."""
    reason: str | None = None
    origin: str | None = None
    """engine: a process of its own; abort: one that was told to abort; operator; lost or left: the end of its owner.
    None when the failure was found by reading the room."""

    @property
    def is_by_operator(self) -> bool:
        """Whether an operator's abort did it. A room does not say: there, a reason that nobody gave counts as one."""
        return self.origin == "operator" if self.origin else self.reason is not None and self.by is None


@dataclass(frozen=True, slots=True)
class RoomRow:
    """One room in a list: what costs little to read. ``entries`` reads the rest. Times and ``ttl`` are as in Entry."""

    room: int
    status: KVPoll | None
    """With ranks, their consensus. None for a corrupt room, whose times are 0."""
    since: float
    """When the room got this status. The table has the time of the last write; statistics know the change itself."""
    opened_at: float
    ttl: float
    owner: str | None = None
    """The name of the lease under which it was created."""


@dataclass(frozen=True, slots=True)
class Owner:
    """One lease, as the server has it. Times are Unix times of the Redis server; times and durations are in seconds."""

    name: str
    incarnation: int
    """When the lease was taken, in microseconds; rooms that were created under it carry the same number."""
    ttl: float = 0.0
    heartbeat: float = 0.0
    """Between heartbeats after one has failed, as ``Lease.heartbeat``."""
    last_heartbeat_at: float = 0.0
    state: Literal["alive", "expired", "suspected", "lost"] = "alive"
    """The first sweep marks an expired lease as suspected; a later one makes it lost, and its rooms are failed. A lost
    one is listed for an hour."""
    reason: str = ""
    """Why the rooms of a lost lease are failed."""
    rooms: int = 0
    """The number of live rooms that the lease takes part in."""
    failed: int = 0
    """The number of rooms that were failed since the lease was lost."""
    lost_at: float = 0.0
    """When its rooms had been failed; 0 before that, and for a lease that is not lost."""
    process: str = ""
    """The process that took the lease, as ``host:pid``; empty if it is not known."""
    ranks: tuple[int, ...] = ()
    """The ranks as which it takes part in live rooms."""
    contested_at: float = 0.0
    """When it sent a heartbeat although another lease had taken its name: two processes use it. 0 if it did not."""

    @property
    def since(self) -> float:
        """When the lease was taken."""
        return self.incarnation / 1e6
