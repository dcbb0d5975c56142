"""JSON documents that the commands' ``--json`` and the API of ``kvpoll serve`` share: one name for one thing.

Conventions: times are Unix times in seconds, durations are seconds and their names end so, what is unknown or absent is
null, a level or a status is its name. Room ids are integers here, of up to 64 bits: the API turns them into text.
Pure; the command imports this without the extra ``serve``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from redis_kvpoll.model import Entry, KVPoll, Owner
from redis_kvpoll.protocol.feed import Change, FeedGap

if TYPE_CHECKING:
    from redis_kvpoll.doctor.findings import Finding
    from redis_kvpoll.statistics.model import Histogram, Snapshot


def entry(one: Entry, now: float) -> dict[str, Any]:
    """A room."""
    return {
        "room": one.room,
        "status": one.status.name,
        "updated_at": one.updated_at,
        "opened_at": one.opened_at,
        "restored_at": one.restored_at,
        "age_seconds": max(0.0, now - one.opened_at),
        "ttl_seconds": None if math.isinf(one.ttl) else one.ttl,
        "owner": one.owner,
        "request": one.request,
        "reason": one.reason,
        "failed_by": one.failed_by,
        "generation": one.generation,
        "decode_prefix_len": one.decode_prefix_len,
        "world_size": one.world_size,
        "ranks": {str(rank): status.name for rank, status in sorted(one.ranks.items())},
        "cleared": sorted(one.cleared),
    }


def owner(one: Owner) -> dict[str, Any]:
    """A lease."""
    return {
        "owner": one.name,
        "state": one.state,
        "since": one.since,
        "last_heartbeat_at": one.last_heartbeat_at or None,
        "lease_seconds": one.ttl or None,
        "live_rooms": one.rooms,
        "failed_rooms": one.failed,
        "reason": one.reason or None,
        "lost_at": one.lost_at or None,
        "process": one.process or None,
        "ranks": list(one.ranks),
        "contested_at": one.contested_at or None,
    }


def change(one: Change | FeedGap) -> dict[str, Any]:
    """A change in the feed."""
    if isinstance(one, FeedGap):
        return {"gap": one._asdict()}
    statuses = {"status": one.status, "rank_status": one.rank_status}
    return one._asdict() | {name: None if status is None else status.name for name, status in statuses.items()}


def findings(found: Iterable[Finding]) -> list[dict[str, str]]:
    """What the doctor's checks have found."""
    return [{**each._asdict(), "level": each.level.name.lower()} for each in found]


def snapshot(one: Snapshot) -> dict[str, Any]:
    """The numbers of a whole table."""
    return {
        "namespace": one.namespace,
        "at": one.at,
        "synced": one.synced,
        "lag_seconds": None if math.isinf(one.lag_seconds) else one.lag_seconds,
        "error": one.error,
        "has_feed": one.has_feed,
        "gaps": one.gaps,
        "resyncs": one.resyncs,
        "rooms": one.total,
        "live": one.live,
        "counts": _by_status(one.counts),
        "oldest_seconds": _by_status(one.oldest),
        "stuck_after_seconds": one.stuck_after,
        "stuck": _by_status(one.stuck),
        "expiring": one.expiring,
        "rates": asdict(one.rates),
        "transitions": [
            {"from": before, "to": after, "count": count} for (before, after), count in sorted(one.transitions.items())
        ],
        "failures": dict(one.failures),
        "reasons": [asdict(each) for each in one.reasons],
        "refused": dict(one.refused),
        "refused_since": one.refused_since,
        "last_refused": one.last_refused and asdict(one.last_refused),
        "data_began_at": one.data_began_at,
        "status_seconds": {status.name: _histogram(each) for status, each in one.status_durations.items()},
        "room_seconds": {status.name: _histogram(each) for status, each in one.room_durations.items()},
        "feeds": [asdict(each) for each in one.feeds],
        "owners": [owner(each) for each in one.owners],
    }


def _by_status(numbers: Mapping[KVPoll, Any]) -> dict[str, Any]:
    return {status.name: number for status, number in numbers.items()}


def _histogram(one: Histogram) -> dict[str, Any]:
    return {
        "count": one.total,
        "sum": one.sum,
        "p50": one.quantile(0.5),
        "p90": one.quantile(0.9),
        "p99": one.quantile(0.99),
    }
