"""Owners as rows of text, the same for pipes and terminals."""

from __future__ import annotations

from collections.abc import Iterable

from redis_kvpoll.cli.durations import human
from redis_kvpoll.cli.rows import local_time
from redis_kvpoll.errors import printable
from redis_kvpoll.model import Owner

COLUMNS = (
    *("owner", "state", "live", "failed", "heartbeat", "lost at", "lease since"),
    *("ranks", "process", "reason"),
)
SHOWN_PROCESSES = 4


def fold(owners: Iterable[Owner]) -> list[list[Owner]]:
    """The owners, with the lost leases of one name and reason together, the last one at the end."""
    groups: dict[tuple[object, ...], list[Owner]] = {}
    for owner in owners:
        key = (owner.name, owner.reason) if owner.state == "lost" else (owner.name, owner.incarnation)
        groups.setdefault(key, []).append(owner)
    return list(groups.values())


def cells(group: list[Owner], now: float) -> tuple[str, ...]:
    """The cells of an owner, or of the lost leases of one name, in the order of COLUMNS, at the server's ``now``."""
    owner, count = group[-1], len(group)
    heartbeat = f"{human(max(0.0, now - owner.last_heartbeat_at))} ago" if owner.last_heartbeat_at else ""
    lost_at = max(one.lost_at for one in group)
    processes = sorted({one.process for one in group if one.process})
    more = f" and {len(processes) - SHOWN_PROCESSES} more" if len(processes) > SHOWN_PROCESSES else ""
    return (
        printable(owner.name),
        owner.state if count == 1 else f"{owner.state} {count:,} times",
        f"{sum(one.rooms for one in group):,}",
        f"{sum(one.failed for one in group):,}",
        heartbeat,
        local_time(lost_at) if lost_at else "",
        local_time(owner.since),
        ", ".join(map(str, owner.ranks)),
        printable(", ".join(processes[:SHOWN_PROCESSES]) + more),
        printable(why(owner)),
    )


def why(owner: Owner) -> str:
    """What the reason of a lost owner says beside that it was lost."""
    said = owner.reason.removeprefix(f"owner {owner.name} lost").strip(" ()")
    return f"{said}, while its process lived" if owner.contested_at else said
