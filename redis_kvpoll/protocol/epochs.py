"""The epoch of a shard, ``microseconds-nonce``: when its data began."""

from __future__ import annotations

_MAX_DIGITS = 17
"""More digits are no time that a server has, but a word that somebody has written by hand."""


def began_at(epoch: bytes | None) -> float | None:
    """Return when the data began, in the server's seconds; None if the epoch does not say it."""
    micros = (epoch or b"").partition(b"-")[0]
    return int(micros) / 1e6 if micros.isdigit() and len(micros) <= _MAX_DIGITS else None
