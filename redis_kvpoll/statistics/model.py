"""What statistics give: a snapshot of the aggregates of one namespace's table, and rows of rooms.

Invariant: all values are plain and immutable, so a snapshot may be passed to any thread. Times are Unix times of the
Redis server, ages and durations are seconds.

To add a number: give it a field here, and set it in ``aggregates.py``.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from redis_kvpoll.model import KVPoll, Owner
from redis_kvpoll.model import RoomRow as RoomRow
from redis_kvpoll.protocol.refused_writes import OUTCOMES, LastRefused

LIVE = (KVPoll.Bootstrapping, KVPoll.WaitingForInput, KVPoll.Transferring)
"""The statuses of a room that is under way."""
ABSENT, CLEARED, EXPIRED = "absent", "cleared", "expired"
"""The names in transitions beside the statuses': before a room, and its two ends."""
FAILURES = (
    *("owner_lost", "owner_left", "lease_lost", "other_side", "timeout"),
    *("aborted", "transfer", "none", "other"),
)
"""The kinds of failure reasons; see ``reasons.py``."""
REFUSED = OUTCOMES
BOUNDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0),
)
"""The upper bounds of a histogram's buckets, in seconds; one more bucket has the rest."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many durations were at most each of BOUNDS, and their sum."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    """By bucket, each without those below it; the last has what is above all bounds."""
    sum: float = 0.0
    longest: float = math.inf
    """The longest duration; infinite if it is not known."""

    @property
    def total(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> tuple[int, ...]:
        """The counts as Prometheus has them: each with those below it."""
        return tuple(accumulate(self.counts))

    def quantile(self, share: float) -> float | None:
        """Return the duration below which ``share`` (0 to 1) of them are, by its bucket; None if there are none.

        It is exact to a bucket, within which durations are taken to be even, and never above the longest. What is
        above all bounds counts as 300 s.
        """
        below = self.cumulative()
        if not below[-1]:
            return None
        at = bisect_left(below, share * below[-1])
        if at >= len(BOUNDS):
            return BOUNDS[-1]
        low, before = (BOUNDS[at - 1], below[at - 1]) if at else (0.0, 0)
        guess = low + (BOUNDS[at] - low) * max(0.0, share * below[-1] - before) / (self.counts[at] or 1)
        return min(guess, self.longest)

    def since(self, earlier: Histogram) -> Histogram:
        """Return the durations that have come since an earlier state of the same histogram."""
        counts = tuple(now - then for now, then in zip(self.counts, earlier.counts, strict=True))
        return Histogram(counts, self.sum - earlier.sum, self.longest)


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened in a second, as the mean of the last ``seconds``."""

    seconds: float = 0.0
    """0 if nothing is known yet: then the others up to ``expired`` are 0, too."""
    opened: float = 0.0
    succeeded: float = 0.0
    failed: float = 0.0
    cleared: float = 0.0
    expired: float = 0.0
    refused: float | None = None
    """The mean of the last ``refused_seconds``; None if it is not known yet."""
    refused_seconds: float = 0.0
    """Servers count refused writes without their times: less than ``seconds`` if they were not read for so long."""

    @property
    def failed_share(self) -> float | None:
        """The share of the rooms that ended which Failed; None if none has ended."""
        ended = self.succeeded + self.failed
        return self.failed / ended if ended else None


@dataclass(frozen=True, slots=True)
class Second:
    """What happened in one second of the server's time."""

    at: int
    """The Unix time at which it began."""
    opened: int = 0
    succeeded: int = 0
    failed: int = 0
    cleared: int = 0
    expired: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """A failure reason, and how often it came in the last hour. Each number in it is shown as ``#``."""

    text: str
    kind: str
    """One of FAILURES."""
    count: int
    last_at: float
    last: str = ""
    """The last one as it was, with its numbers."""


@dataclass(frozen=True, slots=True)
class FeedState:
    """The feed of one shard."""

    shard: str
    """The shard's hash tag: the namespace, with several shards ``prod/3``."""
    entries: int
    span_seconds: float
    """How far it reaches back from now."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The aggregates of one namespace's table at one moment."""

    namespace: str
    at: float
    """The server's time as of which it is true."""
    synced: bool
    """Whether every room is known, and the feed was read to its end in the last seconds."""
    lag_seconds: float
    """Since the feed was last read to its end; infinite before that."""
    error: str | None = None
    """Why it is not synced, if an error is the cause: one sentence."""
    walked: int | None = None
    """How many rooms the first reading of the table, or one anew, has met so far; None when it is complete."""
    resyncs: int = 0
    """How often the table was read anew since: after a gap, a loss of data, or a failover that lost changes."""
    gaps: int = 0
    """How often changes may have been missed: the feed was trimmed or lost before it was read.

    Not counted is what an empty feed gets and drops within one second, before its first entry was read."""
    has_feed: bool = True
    """False for a namespace with feed_length=0: the table is read once a minute, and nothing is known in between, so
    there are no transitions, failures, durations and rates."""

    counts: Mapping[KVPoll, int] = field(default_factory=dict)
    """The rooms at each status; with ranks, at their consensus."""
    oldest: Mapping[KVPoll, float | None] = field(default_factory=dict)
    """At each live status, the seconds since the oldest change of status; None if there is no room."""
    stuck_after: float = 60.0
    stuck: Mapping[KVPoll, int] = field(default_factory=dict)
    """The rooms that are at a live status for longer than ``stuck_after`` seconds."""
    expiring: int = 0
    """The live rooms whose TTL ends within 60 s."""

    transitions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Changes of status since the start, by the names before and after; see ABSENT, CLEARED, EXPIRED."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Rooms that failed since the start, by the kind of the reason (all of FAILURES)."""
    reasons: tuple[ReasonCount, ...] = ()
    """The most frequent reasons of the last hour, most frequent first."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Refused writes, by outcome (all of REFUSED), as the server counts them: anew when it was restarted."""
    refused_since: float | None = None
    """When these counts began; None before the first."""
    last_refused: LastRefused | None = None
    refusals_seen: Mapping[str, int] = field(default_factory=dict)
    """Refused writes since these statistics first read the server's counts, by outcome: they only grow."""
    data_began_at: float | None = None
    """When the data of the first shard began. A lease that is older was restored after a loss of all data."""
    status_durations: Mapping[KVPoll, Histogram] = field(default_factory=dict)
    """How long rooms were at each live status, of those whose beginning and end were both seen."""
    room_durations: Mapping[KVPoll, Histogram] = field(default_factory=dict)
    """How long rooms took from their opening to Success, and to Failed, of those whose opening was seen."""
    rates: Rates = Rates()
    """Of the last minute."""

    feeds: tuple[FeedState, ...] = ()
    owners: tuple[Owner, ...] = ()
    """The leases, those lost in the last hour among them. ``rooms`` is here the live rooms created under it."""

    @property
    def data_lost_at(self) -> float | None:
        """When all data was lost while owners lived, who have restored it; None if that is not known."""
        began = self.data_began_at
        return began if began and any(owner.since < began - 1.0 for owner in self.owners) else None

    @property
    def live(self) -> int:
        """The rooms under way."""
        return sum(self.counts.get(status, 0) for status in LIVE)

    @property
    def total(self) -> int:
        """All rooms."""
        return sum(self.counts.values())
