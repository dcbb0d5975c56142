"""Rooms and changes as rows of text, the same for pipes and terminals."""

from __future__ import annotations

import time
from datetime import datetime
from typing import NamedTuple

from redis_kvpoll.cli.durations import human
from redis_kvpoll.errors import CorruptEntryError, printable
from redis_kvpoll.model import Entry, KVPoll, RoomRow
from redis_kvpoll.protocol.periods import Period

ROOM_COLUMNS = ("room", "status", "age", "updated", "ttl", "owner", "request", "reason")
SHORT_REASON = 200
"""Characters of a reason in a list on a terminal; ``kvpoll show`` has all of it."""
HISTORY_COLUMNS = ("since", "status", "rank", "lasted", "reason", "note")
GAP = "changes may be missing here: the feed was trimmed before they were read, or it was lost"


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
    # "now" is at the latest the server's time, and the room may have changed since: no age is negative.
    ages = (human(max(0.0, now - then)) for then in (entry.opened_at, entry.updated_at))
    reason, request = printable(entry.reason or ""), printable(entry.request or "")
    if is_short and len(reason) > SHORT_REASON:
        reason = reason[: SHORT_REASON - 1] + "…"
    texts = (printable(entry.owner or ""), request, reason)
    return Line((str(row.room), entry.status.name, *ages, human(entry.ttl), *texts), entry.status)


def listed_columns(lines: list[Line], is_terminal: bool) -> tuple[str, ...]:
    """The columns of a list; the owner's and the request's only if a room has one, on a terminal the reason's, too."""
    optional = ("owner", "request", *(("reason",) if is_terminal else ()))
    used = {name for line in lines for name, cell in zip(ROOM_COLUMNS, line.cells, strict=True) if cell}
    return tuple(name for name in ROOM_COLUMNS if name in used or name not in optional)


def shown_cells(columns: tuple[str, ...], line: Line) -> list[str]:
    """The cells of a line in these columns."""
    return [line.cells[ROOM_COLUMNS.index(name)] for name in columns]


def zone(at: float | None = None) -> str:
    """The local time zone, as tables name it beside times without one: +02:00."""
    return local_time(time.time() if at is None else at)[-6:]


def period_rows(period: Period) -> list[tuple[str, ...]]:
    """Rows with the cells of HISTORY_COLUMNS: one for the period and its first rank change, one for each later one."""
    lasted = "" if period.until is None else human(max(0.0, period.until - period.since))
    times = "once" if period.touches == 1 else f"{period.touches:,} times"
    notes = ["until now"] * period.is_current + [f"touched {times}"] * (period.touches > 0)
    first = period.ranks[0][1] if period.ranks else ""
    cells = (local_time(period.since), period.state, first, lasted, printable(period.reason), ", ".join(notes))
    return [cells, *((local_time(at), "", change, "", "", "") for at, change in period.ranks[1:])]
