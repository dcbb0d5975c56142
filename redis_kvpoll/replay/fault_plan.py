"""What goes wrong with which request: decided beforehand, from the seed, so that a replay can be repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from redis_kvpoll.model import KVPoll

Side = Literal["prefill", "decode"]
SIDES: tuple[Side, Side] = ("prefill", "decode")

LATE_STATUSES = (KVPoll.Failed, KVPoll.Success, KVPoll.Transferring)
MAX_LATE_SECONDS = 0.1
"""How long after the clear a late message comes at most: about the life of the next request, to hit it."""


@dataclass(frozen=True, slots=True)
class Rates:
    """The share of requests (0 to 1) that meet each hazard."""

    abort: float = 0.0
    late: float = 0.0
    reuse: float = 0.0
    crash: float = 0.0


@dataclass(frozen=True, slots=True)
class Late:
    """A message of a request that arrives after its room was cleared."""

    side: Side
    status: KVPoll
    delay: float


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """What awaits one request. Moments are shares of its expected life."""

    abort_side: Side | None
    abort_at: float
    late: Late | None
    reuse: bool
    """It gets the room of a request before it."""
    crash_side: Side | None
    """The worker of this side is killed while it has this request."""
    crash_at: float
    prefix_share: float
    """The share of its input that decode holds already."""


def plan_faults(rates: Rates, seed: int, request: int) -> FaultPlan:
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


def _late(rng: random.Random) -> Late:
    return Late(rng.choice(SIDES), rng.choice(LATE_STATUSES), rng.uniform(0, MAX_LATE_SECONDS))
