"""Numbers, durations and times as the pages show them. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol import durations

TONE_OF = {
    KVPoll.Bootstrapping: "boot",
    KVPoll.WaitingForInput: "wait",
    KVPoll.Transferring: "move",
    KVPoll.Success: "done",
    KVPoll.Failed: "fail",
}
NONE = "\N{EN DASH}"
"""Where there is nothing to show."""


def count(number: int) -> str:
    return f"{number:,}"


def rate(per_second: float) -> str:
    """A rate with three digits at most."""
    if per_second >= 99.95:
        return f"{per_second:,.0f}/s"
    return f"{per_second:.2f}/s" if 0 < per_second < 0.095 else f"{per_second:.1f}/s"


def duration(seconds: float | None) -> str:
    """A duration, as the commands write it."""
    return NONE if seconds is None or math.isnan(seconds) else durations.human(max(0.0, seconds))


def clock(at: float, digits: int = 0) -> str:
    """The time of day in UTC, with up to 3 digits of a second."""
    moment = _utc(at)
    if moment is None:
        return NONE
    text = moment.strftime("%H:%M:%S")
    return f"{text}.{moment.microsecond // 1000:03d}"[: 9 + digits] if digits else text


def moment(at: float) -> str:
    """Date and time in UTC."""
    found = _utc(at)
    return NONE if found is None else found.strftime("%Y-%m-%d %H:%M:%S UTC")


def _utc(at: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(at, UTC)
    except (OSError, OverflowError, ValueError):  # written by hand, and outside any calendar
        return None
