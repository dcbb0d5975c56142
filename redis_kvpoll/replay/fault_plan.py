"""The faults of each request, drawn from the seed in advance, so that a replay can be repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from redis_kvpoll.model import KVPoll

Side = Literal["prefill", "decode"]
SIDES: tuple[Side, Side] = ("prefill", "decode")

LATE_STATUSES = (KVPoll.Failed, KVPoll.Success, KVPoll.Transferring)
MAX_LATE_SECONDS = 0.1
"""The longest time between a clear and a late message: about the duration of the next request, to hit it."""


@dataclass(frozen=True, slots=True)
class FaultRates:
    """The share of requests (0 to 1) that get each fault."""

    abort: float = 0.0
    late: float = 0.0
    reuse: float = 0.0
    crash: float = 0.0


@dataclass(frozen=True, slots=True)
class LateMessage:
    """A message of a request that arrives after its room was cleared."""

    side: Side
    status: KVPoll
    delay: float


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """The faults of one request. Times are shares of its expected duration."""

    abort_side: Side | None
    abort_at: float
    late: LateMessage | None
    reuse: bool
    """It gets the room of an earlier request."""
    crash_side: Side | None
    """The side whose worker is killed while it has this request."""
    crash_at: float
    prefix_share: float
    """The share of its input that decode already has."""


def plan_faults(rates: FaultRates, seed: int, request: int) -> FaultPlan:
    """The faults of a request; the same for the same seed."""
    rng = random.Random(f"{seed}/{request}")  # noqa: S311 - traffic, not secrets

    def hit(rate: float) -> bool:
        return rng.random() < rate

    return FaultPlan(
        abort_side=rng.choice(SIDES) if hit(rates.abort) else None,
        abort_at=rng.random(),
        late=_late(rng) if hit(rates.late) else None,
        reuse=hit(rates.reuse),
        crash_side=rng.choice(SIDES) if hit(rates.crash) else None,
        crash_at=rng.random(),
        prefix_share=rng.random() / 2,
    )


def _late(rng: random.Random) -> LateMessage:
    return LateMessage(rng.choice(SIDES), rng.choice(LATE_STATUSES), rng.uniform(0, MAX_LATE_SECONDS))
