"""The ids of the feed's entries (``ms-seq``), as numbers that compare as the ids do, and as times."""

from __future__ import annotations

NOWHERE = -1
"""The position before all ids."""


def number_of(feed_id: bytes) -> int:
    """A feed id as one number."""
    ms, _, seq = feed_id.partition(b"-")
    return int(ms) << 64 | int(seq)


def text_of(number: int) -> str:
    """The feed id as Redis writes it."""
    return f"{number >> 64}-{number & (1 << 64) - 1}"


def milliseconds_of(feed_id: bytes) -> int:
    """The time in a feed id: the server's, unless the entry was made by hand."""
    return int(feed_id.partition(b"-")[0])


def seconds_of(feed_id: str) -> float:
    """The same in seconds, of an id as text."""
    return milliseconds_of(feed_id.encode()) / 1000
