"""The facts that the checks are made on. Times are Unix times or durations, in seconds.

A member that is None was not asked or could not be: the user may not, or the server does not know the command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from redis_kvpoll.model import KVPoll, Owner
from redis_kvpoll.protocol.owner_listing import MemoryFull
from redis_kvpoll.protocol.refused_writes import RefusedWrites
from redis_kvpoll.transport.urls import Kind

ROLES = ("prefill", "decode")
"""What SGLang's plugin appends to a deployment's name."""


def deployment(namespace: str) -> list[str]:
    """Return the namespaces of a deployment of SGLang, from its name or that of one of them; its own name first."""
    base = namespace
    for role in ROLES:
        base = base.removesuffix(f"-{role}")
    return [base, *(f"{base}-{role}" for role in ROLES)]


@dataclass(frozen=True, slots=True)
class Expected:
    """What the caller expects (``--expect``)."""

    settings: Mapping[str, str] = field(default_factory=dict)
    """Of the namespace, by name."""
    instances: Mapping[str, int] = field(default_factory=dict)
    """How many instances of SGLang live, by role."""


class ClockReading(NamedTuple):
    """One reading of a server's clock: ``server`` is its time, read between ``after`` and ``before`` of our clocks."""

    server: float
    after: float
    before: float
    after_monotonic: float
    before_monotonic: float


class Flusher(NamedTuple):
    """A connection whose last command dropped a server's data, and which is still open."""

    address: str
    name: str
    user: str
    command: str
    idle: float
    """Seconds since that command."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One server."""

    address: str
    error: str = ""
    """Why it could not be asked; empty if it could."""
    is_refusal: bool = False
    """Whether it has answered with that error."""
    remedy: str = ""
    is_busy: bool = False
    info: Mapping[str, str] | None = None
    """The fields of INFO."""
    round_trips: tuple[float, ...] = ()
    clock: ClockReading | None = None
    save: str | None = None
    """The setting ``save``."""
    cluster: Mapping[str, str] | None = None
    """The fields of CLUSTER INFO."""
    errors_at_end: Mapping[str, int] = field(default_factory=dict)
    """The server's errors by code, once this look had ended: it causes some itself."""
    slots: int | None = None
    """How many slots of the cluster somebody serves, as this node knows it."""
    is_primary: bool = True
    """Whether it serves slots of a cluster. True outside of a cluster."""
    foreign_keys: int = 0
    """Keys of the namespace that are on this node of a cluster, which does not serve their slot."""
    flushes: Mapping[str, int] = field(default_factory=dict)
    """How often FLUSHALL and FLUSHDB were called since the server's start or CONFIG RESETSTAT."""
    flushers: tuple[Flusher, ...] = ()
    """Who did so last and is still connected; empty also if this user may not call CLIENT LIST."""
    kvpoll_share: float | None = None
    """Which share of all keys is kvpoll's in the URL's database, by those that SCAN has passed."""
    database: int = 0
    """The number of the database that the URL names."""
    denied: frozenset[str] = frozenset()
    """The commands that this user was denied, in this look or an earlier one; they are not sent again."""

    @property
    def errors(self) -> Mapping[str, int]:
        """The server's errors by code, when this look began."""
        return error_counts(self.info or {})


def error_counts(info: Mapping[str, str]) -> Mapping[str, int]:
    """Return the counts of INFO errorstats by code."""
    found = ((name.removeprefix("errorstat_"), value) for name, value in info.items() if name.startswith("errorstat_"))
    return {code: int(value.removeprefix("count=")) for code, value in found if value[len("count=") :].isdigit()}


@dataclass(frozen=True, slots=True)
class RoomFacts:
    """One room of the sample."""

    room: int
    exists: bool
    status: KVPoll | None = None
    corrupt: str = ""
    """What the key holds that no script writes; empty for a sound room."""
    owner: str = ""
    age: float = 0.0
    """Since its opening."""
    idle: float = 0.0
    """Since its last write: with ranks, it may be at its status for longer."""
    restored_at: float | None = None
    """When it was restored after a loss of data."""
    has_ttl: bool = True
    ttl: float = 0.0

    @property
    def has_owner(self) -> bool:
        return bool(self.owner)

    @property
    def is_live(self) -> bool:
        return self.status is not None and not self.status.is_terminal


@dataclass(frozen=True, slots=True)
class PrefixFacts:
    """One prefix key of the sample."""

    room: int
    has_room: bool
    ttl: float
    """Negative if it has none."""


@dataclass(frozen=True, slots=True)
class SampleFacts:
    """Some of the namespace's keys, as SCAN gave them."""

    keys: int
    without_ttl: tuple[str, ...] = ()
    rooms: tuple[RoomFacts, ...] = ()
    prefixes: tuple[PrefixFacts, ...] = ()
    owned: int = 0
    """Entries of ``owned`` that were looked at."""
    owned_without_room: int = 0


@dataclass(frozen=True, slots=True)
class FeedFacts:
    """The feed of one shard."""

    first: str | None
    """The id of its first entry; None if it has none."""
    last: str | None
    length: int | None


@dataclass(frozen=True, slots=True)
class TableFacts:
    """The table of the namespace."""

    now: float
    """The time of its server."""
    owners: tuple[Owner, ...] = ()
    """``rooms`` is counted for lost ones only, up to a thousand."""
    feeds: Mapping[str, FeedFacts] = field(default_factory=dict)
    """By shard; empty if the namespace has no feed."""
    epochs: Mapping[str, float] = field(default_factory=dict)
    """By shard, when its data began."""
    refused: RefusedWrites = field(default_factory=RefusedWrites)
    lag: float | None = None
    """How far a reader of the feed was behind after reading for two seconds."""
    sample: SampleFacts | None = None
    shards: int = 1
    full: MemoryFull | None = None
    """When heartbeats found the first shard's server at its maxmemory."""
    script_missing: bool = False
    """Whether a script was not there that an earlier look had loaded."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """Which commands of the ACL rule the user is denied."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    asked_writes: int
    """How many commands that write were asked about."""
    lacks_keys: bool = False
    """Whether it is denied each command for the namespace's keys, and not all others: its key patterns lack them."""

    @property
    def is_of_reader(self) -> bool:
        """Whether the user may look, and write nothing."""
        return not (self.reads or self.lacks_keys) and 0 < len(self.writes) == self.asked_writes


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that one look has found."""

    namespace: str
    kind: Kind
    server: str
    """The URL, without its password."""
    expected: Expected = field(default_factory=Expected)
    error: str = ""
    """Why no server could be asked; then there is nothing else."""
    is_refusal: bool = False
    """Whether a server has answered with that error."""
    remedy: str = ""
    nodes: tuple[NodeFacts, ...] = ()
    settings: Mapping[str, str] | None = None
    """Empty if the namespace does not exist, or if its settings alone are gone: then there is a table."""
    namespaces: tuple[str, ...] | None = None
    """All namespaces of the server that SCAN has found in its time."""
    is_sampled: bool = False
    """Whether the namespace has more keys than the sample."""
    instances: Mapping[str, tuple[Owner, ...]] | None = None
    """The owners in the tables of a deployment, by namespace: of all if instances are expected, else of the other role.

    None if none were asked for."""
    permissions: Permissions | None = None
    table: TableFacts | None = None
    wrong_types: tuple[str, ...] = ()
    """The keys of the table's shards that have another type."""
    table_error: str = ""
    """Why the table could not be read."""
    is_denied: bool = False
    """Whether that is for want of rights."""
    before: Facts | None = None
    """An earlier look."""
