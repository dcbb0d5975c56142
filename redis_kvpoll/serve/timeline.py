"""The periods for which a room had each status, from its changes. Pure."""

from __future__ import annotations

from typing import NamedTuple

from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol.feed import Change
from redis_kvpoll.serve import formats


class StatusPeriod(NamedTuple):
    """The time for which a room had one status. Times are Unix times in seconds."""

    since: float
    status: KVPoll | None
    """None for cleared."""
    seconds: float = 0.0
    reason: str = ""
    ranks: tuple[str, ...] = ()
    """The changes of single ranks in this time."""
    is_current: bool = False


def periods(changes: list[Change], now: float) -> list[StatusPeriod]:
    """Return the periods of a room that is in the table, the oldest first; the last lasts until now."""
    found: list[StatusPeriod] = []
    for change in changes:
        if not found or change.status is not found[-1].status:
            if found:
                found[-1] = found[-1]._replace(seconds=max(0.0, change.at - found[-1].since))
            found.append(StatusPeriod(change.at, change.status))
        last = found[-1]
        ranks = (*last.ranks, _rank(change)) if change.rank is not None else last.ranks
        found[-1] = last._replace(reason=change.reason or last.reason, ranks=ranks)
    if found and found[-1].status is not None:
        found[-1] = found[-1]._replace(seconds=max(0.0, now - found[-1].since), is_current=True)
    return found


def _rank(change: Change) -> str:
    status = "cleared" if change.rank_status is None else change.rank_status.name
    return f"{change.rank}: {status} {formats.clock(change.at, 3)}"
