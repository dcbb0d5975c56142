"""The messages between the processes of a replay, over pipes. Times are of the machine's monotonic clock."""

from __future__ import annotations

from collections import Counter
from typing import Literal, NamedTuple, TypeAlias

from redis_kvpoll.model import KVPoll, Outcome
from redis_kvpoll.replay.fault_plan import LateMessage, Side
from redis_kvpoll.validation import Policy

Result = Literal["success", "failed", "aborted", "timed out", "crashed"]


class Plan(NamedTuple):
    """What every process of a replay needs to know."""

    url: str
    namespace: str
    """Without the side: the tables are ``namespace-prefill`` and ``namespace-decode``."""
    policy: Policy
    speed: float
    ttl: float
    lease: float | None = None
    """The TTL of the workers' leases in seconds; None: plain writes, without leases and generations."""


# From the router to a worker


class Job(NamedTuple):
    """Run one side of a request."""

    request: int
    room: int
    input_length: int
    prefix_length: int
    abort_after: float | None
    """Seconds."""
    late: LateMessage | None


class PeerWrote(NamedTuple):
    """The other side has written a status into this request's room. From a worker through the router to the other."""

    request: int


class Announced(NamedTuple):
    """Decode is ready for this request. From a decode worker through the router to the prefill worker."""

    request: int


class Stop(NamedTuple):
    """No more requests follow: end once the running ones have ended."""


# From a worker to the router


class Ready(NamedTuple):
    """The worker has its lease, follows failures, and takes requests."""


class Opened(NamedTuple):
    """A side opened its room, with the table's outcome."""

    request: int
    outcome: Outcome
    at: float


class Ended(NamedTuple):
    """A side concluded a request and cleared its room."""

    request: int
    result: Result
    at: float


class Arrived(NamedTuple):
    """A message arrived for a room that its request may already have cleared, with the table's outcome.

    ``side`` is the table; the message may come from the other side.
    """

    request: int
    side: Side
    status: KVPoll
    outcome: Outcome
    at: float
    planned: bool
    """Whether the replay delayed it on purpose."""


class Write(NamedTuple):
    """A write into the table of ``side``, with the table's outcome; ``at`` is when its reply came."""

    request: int
    side: Side
    status: KVPoll
    outcome: Outcome
    at: float


class Written(NamedTuple):
    """The writes through handles since the last of these, without late messages: what a dict would have received."""

    writes: list[Write]


class Measured(NamedTuple):
    """The calls since the last of these: the seconds of each, their rooms, and the outcomes of updates."""

    updates: list[float]
    polls: list[float]
    rooms_updated: int
    rooms_polled: int
    """Read by calls."""
    outcomes: Counter[Outcome]


class WorkerFailed(NamedTuple):
    """The worker cannot continue: the table is unreachable, or rejects its calls."""

    why: str
    is_starved: bool = False
    """Its lease expired, which only a host can cause that lets it not run for so long."""


ToWorker: TypeAlias = Job | Announced | PeerWrote | Stop
FromWorker: TypeAlias = Ready | Announced | PeerWrote | Opened | Ended | Arrived | Written | Measured | WorkerFailed
