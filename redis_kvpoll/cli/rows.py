"""Rooms and changes as rows of text, the same for pipes and terminals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from redis_kvpoll.cli.durations import human
from redis_kvpoll.errors import CorruptEntryError, printable
from redis_kvpoll.model import Entry, KVPoll, RoomRow
from redis_kvpoll.protocol.feed import Change

ROOM_COLUMNS = ("room", "status", "age", "updated", "ttl", "owner", "request", "reason")
SHORT_REASON = 200
"""Characters of a reason in a list on a terminal; ``kvpoll show`` has all of it."""
HISTORY_COLUMNS = ("since", "status", "rank", "lasted", "reason", "note")
GAP = "changes may be missing here: the feed was trimmed before they were read, or it was lost"
CLEARED = "cleared"


def local_time(at: float) -> str:
    """A Unix time in the local time zone."""
    try:
        return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="milliseconds")
    except (OSError, OverflowError, ValueError):  # written by hand, and outside any calendar
        return f"{at:g} s after 1970"


class Line(NamedTuple):
    """One room in a list; its cells are those of ROOM_COLUMNS."""

    cells: tuple[str, ...]
    status: KVPoll | None
    """None for a corrupt room."""


def room_line(row: RoomRow, entry: Entry | CorruptEntryError | None, now: float, is_short: bool = False) -> Line:
    """A room's line; with ``is_short``, its reason is cut. A corrupt room gets a line too, and hides no other."""
    if not isinstance(entry, Entry):
        found = printable(entry.found) if entry is not None else ""
        return Line((str(row.room), "corrupt", "", "", "", "", "", found), None)
    # The times are the server's, "now" is ours: a clock skew must not give a negative age.
    ages = (human(max(0.0, now - then)) for then in (entry.opened_at, entry.updated_at))
    reason, request = printable(entry.reason or ""), printable(entry.request or "")
    if is_short and len(reason) > SHORT_REASON:
        reason = reason[: SHORT_REASON - 1] + "…"
    texts = (printable(entry.owner or ""), request, reason)
    return Line((str(row.room), entry.status.name, *ages, human(entry.ttl), *texts), entry.status)


def listed_columns(lines: list[Line]) -> tuple[str, ...]:
    """The columns of a list; the owner's and the request's only if a room has one."""
    used = {name for line in lines for name, cell in zip(ROOM_COLUMNS, line.cells, strict=True) if cell}
    return tuple(name for name in ROOM_COLUMNS if name in used or name not in ("owner", "request"))


def shown_cells(columns: tuple[str, ...], line: Line) -> list[str]:
    """The cells of a line in these columns."""
    return [line.cells[ROOM_COLUMNS.index(name)] for name in columns]


def zone(at: float | None = None) -> str:
    """The local time zone, as tables name it beside times without one: +02:00."""
    return local_time(time.time() if at is None else at)[-6:]


class Period(NamedTuple):
    """The time for which a room had one status. Times are Unix times in seconds."""

    since: float
    state: str
    """A status, or cleared, expired, gone."""
    until: float | None = None
    reason: str = ""
    touches: int = 0
    is_current: bool = False
    ranks: tuple[tuple[float, str], ...] = ()
    """The changes of single ranks in this time, in order, with their times."""


def periods(changes: list[Change], exists: bool, now: float) -> Iterator[Period]:
    """The periods between changes. The feed has no entry for an expiry: it follows from the TTLs."""
    period: Period | None = None
    expires: float | None = None
    for change in changes:
        state = status_name(change)
        if period and expires is not None and change.at > expires:
            yield period._replace(until=expires)
            yield Period(expires, "expired")
            period = expires = None
        if period and state == period.state != CLEARED:
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
        yield Period(expires, "expired")
    else:
        yield period
        yield Period(now, "gone")


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


def period_rows(period: Period) -> list[tuple[str, ...]]:
    """Rows with the cells of HISTORY_COLUMNS: one for the period and its first rank change, one for each later one."""
    lasted = "" if period.until is None else f"{period.until - period.since:.3f} s"
    times = "once" if period.touches == 1 else f"{period.touches:,} times"
    notes = ["until now"] * period.is_current + [f"touched {times}"] * (period.touches > 0)
    first = period.ranks[0][1] if period.ranks else ""
    cells = (local_time(period.since), period.state, first, lasted, printable(period.reason), ", ".join(notes))
    return [cells, *((local_time(at), "", change, "", "", "") for at, change in period.ranks[1:])]
