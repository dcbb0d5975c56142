"""The periods for which a room had each status, from its changes in the feed. Pure.

The command's ``show`` and ``history`` and the page of a room show the same periods, so they are computed here alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from redis_kvpoll.protocol.feed import Change

CLEARED, EXPIRED, GONE = "cleared", "expired", "gone"
"""States beside the statuses' names."""


class Period(NamedTuple):
    """The time for which a room had one status. Times are Unix times in seconds."""

    since: float
    state: str
    """The name of a status, or CLEARED, EXPIRED or GONE."""
    until: float | None = None
    reason: str = ""
    touches: int = 0
    is_current: bool = False
    ranks: tuple[tuple[float, str], ...] = ()
    """The changes of single ranks in this time, in order, with their times."""


def periods(changes: list[Change], exists: bool, now: float) -> Iterator[Period]:
    """The periods between changes. The feed has no entry for an expiry: it follows from the TTLs.

    Nor has it one for a room that was deleted or evicted: it ended at the latest when the next one was opened.
    """
    period: Period | None = None
    expires: float | None = None
    for change in changes:
        state = status_name(change)
        if period and expires is not None and change.at > expires:
            yield period._replace(until=expires)
            yield Period(expires, EXPIRED)
            period = expires = None
        if period and state == period.state != CLEARED and not change.opens:
            reason = change.reason or period.reason
            is_touch = change.reason is None and change.rank is None
            period = period._replace(
                reason=reason, touches=period.touches + is_touch, ranks=period.ranks + _rank_changes(change)
            )
        else:
            if period:
                yield period if period.state == CLEARED else period._replace(until=change.at)
            period = Period(change.at, state, reason=change.reason or "", ranks=_rank_changes(change))
        if change.ttl is not None or change.status is None:
            expires = None if change.ttl is None else change.at + change.ttl
    if period is None or period.state == CLEARED:
        yield from [period] if period else []
    elif exists:
        yield period._replace(until=max(now, period.since), is_current=True)
    elif expires is not None and expires <= now:
        yield period._replace(until=expires)
        yield Period(expires, EXPIRED)
    else:
        yield period
        yield Period(now, GONE)


def _rank_changes(change: Change) -> tuple[tuple[float, str], ...]:
    return ((change.at, rank_change(change)),) if change.rank is not None else ()


def rank_change(change: Change) -> str:
    """The rank that changed, and its status; empty if none did."""
    if change.rank is None:
        return ""
    return f"{change.rank}: {CLEARED if change.rank_status is None else change.rank_status.name}"


def status_name(change: Change) -> str:
    """The status that a change led to, or cleared."""
    return CLEARED if change.status is None else change.status.name
