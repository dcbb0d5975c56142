"""What the commands print with ``--json``. docs/reference has a schema of each; a test holds them to it.

Conventions: times are Unix times in seconds, durations are seconds, what is unknown or absent is null. Room ids have up
to 64 bits: a reader must not turn them into floating-point numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from redis_kvpoll.errors import CorruptEntryError, printable
from redis_kvpoll.model import Entry, KVPoll, Owner, RoomRow
from redis_kvpoll.protocol.feed import Change, FeedGap

if TYPE_CHECKING:
    from redis_kvpoll.doctor.replica import ReplicaLink
    from redis_kvpoll.statistics.model import Histogram, Snapshot


def put(value: Any) -> None:
    """Print a document."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def put_line(value: Any) -> None:
    """Print a document of a stream on one line."""
    click.echo(json.dumps(value, allow_nan=False))


def room(row: RoomRow | None, entry: Entry | CorruptEntryError | None, now: float) -> dict[str, Any]:
    """One room in a list, or by itself."""
    if isinstance(entry, Entry):
        ttl = None if math.isinf(entry.ttl) else entry.ttl
        return {
            "room": entry.room,
            "status": entry.status.name,
            "updated_at": entry.updated_at,
            "opened_at": entry.opened_at,
            "restored_at": entry.restored_at,
            "age_seconds": max(0.0, now - entry.opened_at),
            "ttl_seconds": ttl,
            "owner": entry.owner,
            "request": entry.request,
            "reason": entry.reason,
            "failed_by": entry.failed_by,
            "generation": entry.generation,
            "decode_prefix_len": entry.decode_prefix_len,
            "world_size": entry.world_size,
            "ranks": {str(rank): status.name for rank, status in sorted(entry.ranks.items())},
            "cleared": sorted(entry.cleared),
        }
    number = entry.room if entry is not None else row.room if row is not None else None
    return {"room": number, "status": None, "corrupt": printable(entry.found) if entry is not None else None}


def owner(one: Owner) -> dict[str, Any]:
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


def replica(one: ReplicaLink | None) -> dict[str, Any] | None:
    """The replica that was read; None for a primary."""
    if one is None:
        return None
    return {"primary": one.primary, "linked": one.is_linked, "seconds_behind": one.behind}


def change(one: Change | FeedGap) -> dict[str, Any]:
    """A change in the feed."""
    if isinstance(one, FeedGap):
        return {"gap": one._asdict()}
    statuses = {"status": one.status, "rank_status": one.rank_status}
    return one._asdict() | {name: None if status is None else status.name for name, status in statuses.items()}


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
