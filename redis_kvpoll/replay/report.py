"""The figures of a replay, and which promises they break."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from redis_kvpoll.validation import Policy

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds a call took."""

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
    """What a replay found. Rates are per second of ``seconds``, the time from the first request to the last end."""

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
    looks: Latency
    """Polls of the mirrors, by which the workers went; each was followed by one by call, for the same rooms."""
    behind: int
    """Rooms of which the call said something else than the mirror just before."""
    unsynced: int
    """Looks at a mirror that said it was not current."""
    outcomes: dict[str, int]
    late: dict[str, dict[str, int]]
    """Planned late messages: status -> what the table answered -> how many."""
    reused: int
    crashes: int
    lost: int
    orphaned: int
    orphans_past_ttl: int
    lease: float | None
    """Seconds; None when the workers wrote plainly."""
    orphans_past_lease: int
    """Rooms of killed workers that stayed alive for more than their lease and two seconds."""
    oldest_orphan: float
    """Seconds that a killed worker's room was seen alive after it, at most."""
    leaked: dict[str, int]
    """By the status that brought the room back; ``unknown`` for rooms that nothing explains."""
    cross_contaminated: int
    cross_contamination: dict[str, int]
    """Kind -> requests."""
    server_kills: int = 0
    """How many times the server was killed and came back empty."""
    errors: list[str] = field(default_factory=list)
    """What went wrong with the replay itself."""

    @property
    def updates_per_second(self) -> float:
        return self.rooms_updated / self.seconds if self.seconds else 0.0

    @property
    def polls_per_second(self) -> float:
        return self.rooms_polled / self.seconds if self.seconds else 0.0

    @property
    def late_failed_skipped(self) -> int:
        answers = self.late.get("Failed", {})
        return answers.get("SKIPPED", 0) + answers.get("STALE", 0)

    def violations(self) -> list[str]:
        """What the policy promises not to have, in words; empty when all holds."""
        found = list(self.errors)
        if self.lost:
            found.append(f"{self.lost} requests lost: they have no end")
        if self.orphans_past_ttl:
            found.append(f"{self.orphans_past_ttl} rooms of killed workers outlived their TTL")
        if self.orphans_past_lease:
            found.append(f"{self.orphans_past_lease} rooms of killed workers stayed alive beyond their lease and 2 s")
        if self.cross_contaminated and self.lease is not None:
            found.append(f"{self.cross_contaminated} requests were touched by another's message, through generations")
        for status, count in self.leaked.items():
            if self.lease is not None or self.policy == "strict" or status not in ("Success", "Transferring"):
                how = "that nothing explains" if status == UNKNOWN else f"through a late {status}"
                found.append(f"{count} rooms leaked {how}")
        return found
