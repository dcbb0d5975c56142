"""The figures of a replay, and the guarantees that they violate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from redis_kvpoll.validation import Policy

UNKNOWN = "unknown"
Verdict: TypeAlias = Literal["PASS", "FAIL", "not promised", "not tested"]
COMPAT_LEAKS = ("Success", "Transferring")
"""The late statuses that create a cleared room again under the policy compat."""


class Promise(NamedTuple):
    """A promise, and what the replay says about it."""

    words: str
    is_kept: bool | None
    """None: not made in this mode."""
    figures: str
    dict_figures: str = ""
    """The same of a plain dict."""
    is_tested: bool = True
    """Whether anything happened that could have broken it."""

    @property
    def verdict(self) -> Verdict:
        """What it comes to."""
        if self.is_kept is None:
            return "not promised"
        if not self.is_kept:
            return "FAIL"
        return "PASS" if self.is_tested else "not tested"


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
    """That asked for."""
    carried_speed: float
    """What the host carried: requests are held back while those before them do not end in time."""
    seed: int
    seconds: float
    input_tokens: int
    output_tokens: int
    results: dict[str, int]
    rooms_updated: int
    rooms_polled: int
    updates: Latency
    polls: Latency
    outcomes: dict[str, int]
    late: dict[str, dict[str, int]]
    """Planned late messages: status -> outcome -> how many."""
    reused: int
    crashes: int
    unfinished: int
    """Requests without a result."""
    timed_out_for_nothing: int
    """Requests that timed out with no fault or message to explain it: the host was too slow for them."""
    orphaned: int
    orphans_past_ttl: int
    lease: float | None
    """The TTL of the workers' leases in seconds; None: plain writes."""
    orphans_past_lease: int
    """Rooms of killed workers that stayed live for more than their lease and two seconds, although others swept."""
    oldest_orphan: float
    """The longest time in seconds that a killed worker's room stayed live."""
    leaked: dict[str, int]
    """Rooms that exist after their clear, by the status that created them again; ``unknown`` if nothing explains it."""
    cross_contaminated: int
    """Requests that another request's write affected."""
    cross_contamination: dict[str, int]
    """The same by kind."""
    mirror_polls: Latency = field(default_factory=lambda: Latency.of([]))
    """Of one mirror a table, beside the workers; each poll is followed by a call for the same rooms."""
    rooms_mirrored: int = 0
    mirror_behind: int = 0
    """Rooms for which the call returned another status than the mirror just before."""
    mirror_unsynced: int = 0
    """Polls of a mirror that was not synced."""
    example_room: int | None = None
    """A room in decode's table with a history to look at: of a killed worker, if there is one."""
    plain_dict: tuple[int, int] | None = None
    """What these messages do to a plain dict: rooms that came back, requests hit by another's; None: plain writes."""
    server_kills: int = 0
    """How often the server was killed and restarted empty."""
    errors: list[str] = field(default_factory=list)
    """Failures of the replay itself."""

    @property
    def is_slowed(self) -> bool:
        """Whether the host carried less than the speed asked for."""
        return self.carried_speed < self.speed

    @property
    def sweeps_were_late(self) -> bool:
        """Whether rooms of killed workers stayed live for longer than promised, since no other worker could sweep."""
        return self.lease is not None and self.oldest_orphan > self.lease + 2 and not self.orphans_past_lease

    @property
    def updates_per_second(self) -> float:
        return self.rooms_updated / self.seconds if self.seconds else 0.0

    @property
    def polls_per_second(self) -> float:
        return self.rooms_polled / self.seconds if self.seconds else 0.0

    @property
    def mirror_polls_per_second(self) -> float:
        return self.rooms_mirrored / self.seconds if self.seconds else 0.0

    @property
    def late_failed_skipped(self) -> int:
        outcomes = self.late.get("Failed", {})
        return outcomes.get("SKIPPED", 0) + outcomes.get("STALE", 0)

    def promises(self) -> list[Promise]:
        """Each promise: kept or broken, with the figures that show it."""
        is_fenced, came_back = self.lease is not None, sum(self.leaked.values())
        stays = None if self._may_leak and came_back else not came_back
        if any(not self._is_allowed(status) for status in self.leaked):
            stays = False
        dict_back, dict_hit = (f"{count:,}" for count in self.plain_dict) if self.plain_dict else ("", "")
        within = f" within {self.lease + 2:g} s" if self.lease is not None else ""
        has_late, has_orphans = bool(self.late), self.orphaned > 0
        hit = f"{self.cross_contaminated:,} requests hit"
        return [
            Promise("every request has a result", not (self.unfinished or self.errors),
                    f"{self.requests - self.unfinished:,} of {self.requests:,}"),
            Promise("a cleared room stays cleared", stays,
                    f"{came_back:,} rooms came back", dict_back and f"{dict_back} came back", has_late),
            Promise("a message changes no other request", not self.cross_contaminated if is_fenced else None,
                    hit, dict_hit and f"{dict_hit} hit", has_late and self.reused > 0),
            Promise(f"a killed worker's rooms fail{within}", not self.orphans_past_lease if is_fenced else None,
                    f"{self.orphaned:,} rooms in {self.oldest_orphan:.1f} s" if is_fenced else "no lease",
                    is_tested=has_orphans),
            Promise("they expire with their TTL", not self.orphans_past_ttl,
                    f"{self.orphans_past_ttl:,} of {self.orphaned:,} left", is_tested=has_orphans),
        ]  # fmt: skip

    @property
    def _may_leak(self) -> bool:
        """Whether a late Success or Transferring may create a cleared room again, as in SGLang."""
        return self.lease is None and self.policy == "compat"

    def _is_allowed(self, leak: str) -> bool:
        return self._may_leak and leak in COMPAT_LEAKS

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
            if not self._is_allowed(status):
                how = "that nothing explains" if status == UNKNOWN else f"through a late {status}"
                found.append(f"{count} rooms leaked {how}")
        return found
