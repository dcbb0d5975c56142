"""How many requests a second one Redis core carries, by a model whose inputs are measured.

N prefill and N decode instances of T ranks: a request makes 8 T changes. With mirrors, change by change, each is
delivered to every process that follows the table, 13 N T^2 deliveries a request. With followers of failures there are
none, only heartbeats. One caller for all ranks of an instance sends each step of a request as one call.
"""

from __future__ import annotations

from typing import NamedTuple

from bench.measure import Spread
from bench.results import Row, Section
from redis_kvpoll.replica import failures

INSTANCES = (1, 4, 8, 16)
RANKS = 8
_CHANGES, _DELIVERIES = 8, 13


class Inputs(NamedTuple):
    """CPU of the server, in microseconds."""

    change: float
    delivery: float
    """To one mirror."""
    heartbeat: float
    """Of one follower of failures."""
    request: float
    """Of RANKS ranks, with one caller for them."""


class Capacity(NamedTuple):
    """Requests a second of one core."""

    mirrors: float
    failures: float
    one_caller: float


def capacity(inputs: Inputs, instances: int) -> Capacity:
    """What so many instances of each role can do."""
    changes = _CHANGES * RANKS * inputs.change
    deliveries = _DELIVERIES * instances * RANKS**2 * inputs.delivery
    left = 1e6 - heartbeats(instances * RANKS) * inputs.heartbeat
    one_left = 1e6 - heartbeats(instances) * inputs.heartbeat
    return Capacity(1e6 / (changes + deliveries), left / changes, one_left / inputs.request)


def heartbeats(processes: int) -> float:
    """Heartbeats a second of so many processes of each role; each follows the failures of both."""
    return 2 * 2 * processes / failures.HEARTBEAT


def sections(inputs: Inputs) -> list[Section]:
    """The inputs, and what they give for some sizes of a cluster."""
    found = Section("capacity_inputs", "The model's inputs: CPU of the server", "µs")
    names = ("a change", "its delivery to one mirror", "a heartbeat of a follower of failures")
    for name, us in zip((*names, f"a request of {RANKS} ranks, one caller for all"), inputs, strict=True):
        found.rows.append(Row(name, "", "us", None, None, Spread(us, us, us)))
    title = f"Requests a second that one core of the server carries, by the model; instances of {RANKS} ranks"
    carried = Section("capacity", title, "ours / mirrors", ours="ours", theirs="mirrors")
    for instances in INSTANCES:
        by = capacity(inputs, instances)
        for who, rate in (("followers of failures", by.failures), ("one caller an instance", by.one_caller)):
            ratio = rate / by.mirrors
            name = f"{instances}+{instances}: {who}"
            carried.rows.append(Row(name, "mirrors", "per_second", rate, by.mirrors, Spread(ratio, ratio, ratio)))
    return [found, carried]
