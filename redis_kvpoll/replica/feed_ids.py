"""Feed ids as numbers, which compare as the ids do."""

from __future__ import annotations

NOWHERE = -1
"""The position before all ids."""


def number_of(feed_id: bytes) -> int:
    """A feed id (``ms-seq``) as one number, which compares as the ids do."""
    ms, _, seq = feed_id.partition(b"-")
    return int(ms) << 64 | int(seq)


def text_of(number: int) -> str:
    """The feed id as Redis writes it."""
    return f"{number >> 64}-{number & (1 << 64) - 1}"
