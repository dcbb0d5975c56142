"""Reads the feeds of a namespace: where to begin, and on from there.

Invariant: the entry that was read last must still be there, or the feed may lack changes: MissedError.
"""

from __future__ import annotations

import time

from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.feed_ids import milliseconds_of, number_of
from redis_kvpoll.replica.health import FollowerHealth
from redis_kvpoll.replica.requests import FollowerFlow
from redis_kvpoll.statistics.aggregates import Aggregates
from redis_kvpoll.statistics.asking import ask
from redis_kvpoll.statistics.beside import Beside
from redis_kvpoll.statistics.position import START, MissedError, Position

ENTRIES = 1000
"""Entries of one reading of the feed."""


class Feeds:
    """Reads for some aggregates."""

    def __init__(self, aggregates: Aggregates, beside: Beside, health: FollowerHealth) -> None:
        self.positions: dict[str, Position] = {}
        self._aggregates = aggregates
        self._beside = beside
        self._health = health

    def find_position(self, tag: str, lookback: float) -> FollowerFlow[None]:
        """Begin at the end of a shard's feed, or so many seconds before it."""
        last = yield from ask(tag, ["XREVRANGE", keys.feed(tag), "+", "-", "COUNT", "1"])
        self._health.answered(time.monotonic())
        trimmed_ms = (yield from self._beside.trimmed_until(tag)) if lookback else 0
        with self._aggregates.lock:
            now_ms = self._aggregates.now_ms(time.monotonic())
            start_ms = now_ms - round(lookback * 1000)
            if tag not in self.positions:
                self._aggregates.totals.begin(max(start_ms, min(trimmed_ms, now_ms)))
        if not last:
            self.positions[tag] = Position(START, None)
        elif lookback and milliseconds_of(last[0][0]) >= start_ms:
            self.positions[tag] = Position(b"%d-0" % start_ms, None)
        else:
            self.positions[tag] = Position(last[0][0], last[0][1])

    def read(self, tag: str, until: bytes | None = None) -> FollowerFlow[None]:
        """Read on in the feed: to its end, or to the entry ``until``."""
        position, shard = self.positions[tag], self._aggregates.shards[tag]
        epoch = position.epoch
        if epoch is None and until is None and position.words is not None and shard.is_walked and not len(shard.rooms):
            epoch = yield from self._beside.read_epoch(tag)
        if until is not None and number_of(until) < number_of(position.id):
            raise MissedError(tag)  # another server, that lacks the last entries
        while until is None or until != position.id:
            end = "+" if until is None else until.decode()
            words = ["XRANGE", keys.feed(tag), position.id.decode(), end, "COUNT", str(ENTRIES + 1)]
            entries = yield from ask(tag, words)
            self._health.answered(time.monotonic())
            if position.words is not None:
                if not entries and (yield from self._has_ended(tag, position)):
                    self.positions[tag] = Position(START, None)
                    return
                if not entries or (entries[0][0], entries[0][1]) != (position.id, position.words):
                    raise MissedError(tag)
                entries = entries[1:]
            is_end = len(entries) < ENTRIES
            position.epoch = epoch = None if entries else epoch
            with self._aggregates.lock:
                for entry_id, fields in entries:
                    shard.entry(entry_id, fields)
                    position.id, position.words = entry_id, fields
            if is_end:
                if until is not None and until != position.id:
                    raise MissedError(tag)
                return

    def _has_ended(self, tag: str, position: Position) -> FollowerFlow[bool]:
        """Whether a feed that is gone has come to the end of its TTL: no room was there, and none was opened since.

        A loss of data takes the epoch, too.
        """
        return position.epoch is not None and (yield from self._beside.read_epoch(tag)) == position.epoch
