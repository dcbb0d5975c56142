"""Whether a follower has missed no entry of its feeds.

XREAD does not report entries that were trimmed before they were read. Nor does a later entry show such a hole: the
newest entry that was read is in the feed as ever. So a look asks for an *anchor*, the entry up to which the last look
had proved everything. A feed loses its oldest entries first: while it has the anchor, it has had all entries after it,
and every read since was complete. One look per heartbeat, in the request of a read, proves this for all of them.

Between two looks a hole stays unknown: the feed was trimmed past the position, or deleted and begun anew, with higher
ids (XREAD reports what follows) or lower ones (XREAD reports nothing). So only a read with a look counts as one to the
feed's end, and a copy is synced only while the last of these is recent: it lacks nothing that is older.

A read without a look waits for entries only until the next look is due, so what it leaves unproved is proved soon.

Invariant: an anchor is never further behind the position than half of the feed's bound, or one look follows each read.
So the trimming that a busy feed needs anyway removes no anchor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from redis_kvpoll.protocol.feed_ids import text_of

LOOK_INTERVAL = 0.25
"""Seconds between two looks, at least. Each costs the server about a third of a read."""


class Continuity:
    """The anchors of some feeds. ``bound`` is how many entries a feed keeps, ``page`` how many one read may bring."""

    def __init__(self, feeds: Sequence[str], bound: int, page: int) -> None:
        self._feeds = feeds
        self._anchors: Mapping[str, int] = {}
        self._most_behind = bound // 2 - page
        self._behind = 0
        """Entries read since the anchors were set."""
        self._looked_at = float("-inf")

    def start(self, positions: Sequence[int]) -> None:
        """Set the anchors to the positions of a resync."""
        self._anchors, self._behind = dict(zip(self._feeds, positions, strict=True)), 0

    def due(self, now: float) -> bool:
        """Whether the next read is to look."""
        return now >= self._looked_at + LOOK_INTERVAL or self._behind > self._most_behind

    def wait_ms(self, most: int, now: float) -> int:
        """Return for how many milliseconds a read waits: ``most``, or without a look only until one is due."""
        if self.due(now):
            return most
        until_due = math.ceil(1000 * (self._looked_at + LOOK_INTERVAL - now))
        return min(most, until_due)

    def commands(self) -> list[list[str]]:
        """Return the commands of a look, to follow the read in its request.

        XREVRANGE, since an anchor is at the feed's end or near it: a server seeks inside a node of about 100 entries
        from the side where the range begins.
        """
        found = [(feed, text_of(at)) for feed, at in self._anchors.items()]
        return [["XREVRANGE", feed, at, at] for feed, at in found]

    def holds(self, replies: Sequence[Sequence[object]]) -> bool:
        """Whether the replies to a look prove that nothing was missed.

        A feed that did not exist when a store with read_only=True looked has all its entries after the position.
        """
        return all(found or at == 0 for found, at in zip(replies, self._anchors.values(), strict=True))

    def read(self, positions: Sequence[int], entries: int, is_proved: bool, is_end: bool, asked_at: float) -> None:
        """Note a read up to positions. Unless it was to the feeds' end, the next one looks again."""
        self._behind += entries
        if is_proved:
            self.start(positions)
            if is_end:
                self._looked_at = asked_at
