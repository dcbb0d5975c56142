"""The sweep for rooms that went without an entry in the feed: removed or evicted, or expired before their time.

Its rate bounds what it costs the server: one EXISTS of some keys, in a request that is sent anyway. So it bounds, too,
how long such a room is shown: the number of rooms divided by ROOMS_PER_SECOND, or SHORTEST_PASS if that is longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from redis_kvpoll.protocol import keys
from redis_kvpoll.replica.shard import ShardReplica

ROOMS_PER_SECOND = 1000
"""A key in EXISTS takes a server about 0.2 us, so a mirror costs it 0.02 % of its time."""
SHORTEST_PASS = 5.0
"""Seconds between the beginnings of two passes, so that many mirrors of few rooms cost no more."""
INTERVAL = 0.25
"""Seconds between two parts of a pass, at least: they go with the follower's reads."""
LONGEST_INTERVAL = 5.0
"""Seconds that one part makes up for, at most: its EXISTS holds the server for a millisecond."""


class RoomSweep:
    """Passes over the rooms of some shards, which are on one server."""

    def __init__(self, shards: Mapping[str, ShardReplica]) -> None:
        self._shards = shards
        self._next_at = self._last_at = 0.0
        self._next_pass_at = float("inf")
        self._rest: Iterator[tuple[int, str]] | None = None

    def part(self, now: float) -> tuple[list[int], list[str]]:
        """Return rooms that are due to be looked at, and the command that counts how many exist."""
        if now < self._next_at:
            return [], []
        if self._next_at == 0.0:  # all rooms were just read
            self._next_pass_at, self._last_at = now + SHORTEST_PASS, now - INTERVAL
        seconds, self._last_at = min(now - self._last_at, LONGEST_INTERVAL), now
        self._next_at = now + INTERVAL
        if self._rest is None:
            if now < self._next_pass_at:
                return [], []
            self._next_pass_at = now + SHORTEST_PASS
            self._rest = self._all()
        part = list(islice(self._rest, int(ROOMS_PER_SECOND * seconds)))
        if not part:
            self._rest = None
            return [], []
        return [room for room, _ in part], ["EXISTS", *(key for _, key in part)]

    def _all(self) -> Iterator[tuple[int, str]]:
        for tag, shard in self._shards.items():
            for room in shard.known_rooms():
                yield room, keys.rooms(tag, [room])[0]
