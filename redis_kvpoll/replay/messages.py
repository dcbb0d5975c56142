"""What the processes of a replay say to each other, over pipes. Moments are of the machine's monotonic clock."""

from __future__ import annotations

from collections import Counter
from typing import Literal, NamedTuple, TypeAlias

from redis_kvpoll.model import KVPoll, Outcome
from redis_kvpoll.replay.fault_plan import Late, Side
from redis_kvpoll.validation import Policy

Result = Literal["success", "failed", "aborted", "timed out", "crashed"]


class Plan(NamedTuple):
    """What every process of a replay needs to know."""

    url: str
    namespace: str
    """Without its side: the tables are ``namespace-prefill`` and ``namespace-decode``."""
    policy: Policy
    speed: float
    ttl: float
    lease: float | None = None
    """The TTL in seconds of the workers' leases; None: they write plainly, without leases and generations."""


# From the router to a worker


class Job(NamedTuple):
    """Run one side of a request."""

    request: int
    room: int
    input_length: int
    prefix_length: int
    abort_after: float | None
    """Seconds."""
    late: Late | None


class Announced(NamedTuple):
    """Decode is ready for this request. From a decode worker, by way of the router, to the prefill worker."""

    request: int


class Stop(NamedTuple):
    """No more work; end when what is under way is done."""


# From a worker to the router


class Opened(NamedTuple):
    """A side opened its entry: what its table answered."""

    request: int
    outcome: Outcome
    at: float


class Ended(NamedTuple):
    """A side concluded a request and cleared its entry."""

    request: int
    result: Result
    at: float


class Arrived(NamedTuple):
    """A message arrived for a room that its request may have cleared already: what the table answered.

    ``side`` is the table; the message may have come from the other side.
    """

    request: int
    side: Side
    status: KVPoll
    outcome: Outcome
    at: float
    planned: bool
    """Made late by the replay, or late by itself."""


class Measured(NamedTuple):
    """Calls since the last of these: seconds of each, rooms in them, and the outcomes of updates."""

    updates: list[float]
    polls: list[float]
    looks: list[float]
    """Polls of the mirror."""
    rooms_updated: int
    rooms_polled: int
    """By call; the mirror is asked for the same rooms."""
    behind: int
    """Rooms of which a poll that followed the look at the mirror said something else."""
    unsynced: int
    """Looks for which the mirror said that it was not current."""
    outcomes: Counter[Outcome]


class Broken(NamedTuple):
    """The worker cannot go on: the table is out of reach, or refuses."""

    why: str


ToWorker: TypeAlias = Job | Announced | Stop
FromWorker: TypeAlias = Announced | Opened | Ended | Arrived | Measured | Broken
