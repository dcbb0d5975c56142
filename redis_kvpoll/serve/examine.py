"""The doctor's look at one namespace, as ``serve`` takes it each minute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from redis_kvpoll.doctor import registry
from redis_kvpoll.doctor.examination import Doctor
from redis_kvpoll.doctor.findings import Finding


class Examination(NamedTuple):
    """What one look has found."""

    findings: Sequence[Finding]
    """Worst first."""
    server: str
    """valkey, redis; empty if it was not told."""
    server_version: str


Examine = Callable[[float | None], Examination]
"""Looks, for some seconds, which it blocks. It takes how many seconds the statistics are behind, if that is known."""


def examiner(url: str, namespace: str) -> Examine:
    """Return the doctor of a namespace; each of its looks compares with the one before."""
    doctor = Doctor(url, namespace)

    def examine(lag: float | None) -> Examination:
        facts = doctor.look(lag)
        info = next((node.info for node in facts.nodes if node.info), {})
        server = info.get("server_name", "redis" if "redis_version" in info else "")
        version = info.get(f"{server}_version", info.get("redis_version", ""))
        return Examination(registry.run(facts), server, version)

    return examine
