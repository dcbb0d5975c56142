"""The figures of a replay, and the guarantees that they violate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from redis_kvpoll.validation import Policy

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Latency:
    """The duration of calls in milliseconds."""

    calls: int
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        if not seconds:
            return cls(0, 0.0, 0.0, 0.0, 0.0)
        ordered = sorted(seconds)

        def at(share: float) -> float:
            return round(ordered[math.ceil(share * len(ordered)) - 1] * 1000, 3)

        return cls(len(ordered), at(0.50), at(0.90), at(0.99), at(1.0))


@dataclass(slots=True)
class Report:
    """The figures of a replay. Rates are per second of ``seconds``, from the first request to the last end."""

    policy: Policy
    requests: int
    prefill: int
    decode: int
    speed: float
    seed: int
    seconds: float
    input_tokens: int
    output_tokens: int
    results: dict[str, int]
    rooms_updated: int
    rooms_polled: int
    updates: Latency
    polls: Latency
    mirror_polls: Latency
    """The workers follow their mirrors; each poll of one is followed by a call for the same rooms."""
    mirror_behind: int
    """Rooms for which the call returned another status than the mirror just before."""
    mirror_unsynced: int
    """Polls of a mirror that was not synced."""
    outcomes: dict[str, int]
    late: dict[str, dict[str, int]]
    """Planned late messages: status -> outcome -> how many."""
    reused: int
    crashes: int
    unfinished: int
    """Requests without a result."""
    orphaned: int
    orphans_past_ttl: int
    lease: float | None
    """The TTL of the workers' leases in seconds; None: plain writes."""
    orphans_past_lease: int
    """Rooms of killed workers that stayed live for more than their lease and two seconds."""
    oldest_orphan: float
    """The longest time in seconds that a killed worker's room stayed live."""
    leaked: dict[str, int]
    """Rooms that exist after their clear, by the status that created them again; ``unknown`` if nothing explains it."""
    cross_contaminated: int
    """Requests that another request's write affected."""
    cross_contamination: dict[str, int]
    """The same by kind."""
    server_kills: int = 0
    """How often the server was killed and restarted empty."""
    errors: list[str] = field(default_factory=list)
    """Failures of the replay itself."""

    @property
    def updates_per_second(self) -> float:
        return self.rooms_updated / self.seconds if self.seconds else 0.0

    @property
    def polls_per_second(self) -> float:
        return self.rooms_polled / self.seconds if self.seconds else 0.0

    @property
    def late_failed_skipped(self) -> int:
        outcomes = self.late.get("Failed", {})
        return outcomes.get("SKIPPED", 0) + outcomes.get("STALE", 0)

    def violations(self) -> list[str]:
        """The violated guarantees in words; empty if all hold."""
        found = list(self.errors)
        if self.unfinished:
            found.append(f"{self.unfinished} requests unfinished: they have no result")
        if self.orphans_past_ttl:
            found.append(f"{self.orphans_past_ttl} rooms of killed workers outlived their TTL")
        if self.orphans_past_lease:
            found.append(f"{self.orphans_past_lease} rooms of killed workers stayed live beyond their lease and 2 s")
        if self.cross_contaminated and self.lease is not None:
            found.append(f"{self.cross_contaminated} requests cross-contaminated, in spite of generations")
        for status, count in self.leaked.items():
            if self.lease is not None or self.policy == "strict" or status not in ("Success", "Transferring"):
                how = "that nothing explains" if status == UNKNOWN else f"through a late {status}"
                found.append(f"{count} rooms leaked {how}")
        return found
