"""How far the feed of a shard was read."""

from __future__ import annotations

from collections.abc import Sequence

START = b"0-0"
"""A position before all entries."""


class MissedError(Exception):
    """Changes of a shard may be missing."""


class Position:
    """How far the feed of one shard was read."""

    def __init__(self, entry_id: bytes, words: Sequence[bytes] | None) -> None:
        self.id = entry_id
        self.words = words
        """What the entry says, which must still be there: another server whose clock is behind may have used its id.
        None if no entry was read."""
        self.epoch: Sequence[bytes | None] | None = None
        """The shard's epoch and last generation, as of this entry; None if it has rooms, or that is not known."""
