"""Waiting for statistics."""

from __future__ import annotations

from typing import Any

from redis_kvpoll import KVPoll
from redis_kvpoll.statistics.model import Snapshot
from tests.support import real


def counts(statistics: Any) -> dict[KVPoll, int]:
    """How many rooms there are at each status that has any."""
    return {status: count for status, count in statistics.snapshot().counts.items() if count}


def synced(statistics: Any) -> Snapshot:
    """Wait until all rooms are known."""
    real.until(lambda: statistics.snapshot().synced, "synced")
    snapshot: Snapshot = statistics.snapshot()
    return snapshot


def settled(statistics: Any, found: dict[KVPoll, int]) -> Snapshot:
    """Wait until these are the counts."""
    real.until(lambda: statistics.snapshot().synced and counts(statistics) == found, f"{found}")
    snapshot: Snapshot = statistics.snapshot()
    return snapshot
