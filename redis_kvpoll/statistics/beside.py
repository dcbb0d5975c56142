"""What statistics read beside the feed, once in each round: the server's time, the feed's size, refused writes, leases.

Invariant: what the server refuses here (a key of another type, made by hand; a command that an ACL denies) leaves the
number as it was, and hinders nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import MovedError, ResponseError

from redis_kvpoll.engine.effects import Send
from redis_kvpoll.model import Owner
from redis_kvpoll.protocol import epochs, keys, refused_writes
from redis_kvpoll.protocol.feed_ids import milliseconds_of
from redis_kvpoll.protocol.owner_listing import has_lost, list_due, merge_owners, parse_due, parse_owners, words_of
from redis_kvpoll.replica.requests import FollowerFlow
from redis_kvpoll.statistics.aggregates import Aggregates
from redis_kvpoll.statistics.asking import ask
from redis_kvpoll.statistics.model import FeedState


class Beside:
    """Reads for some aggregates."""

    def __init__(self, aggregates: Aggregates) -> None:
        self._aggregates = aggregates

    def read_time(self, tag: str) -> FollowerFlow[None]:
        """Read the server's time."""
        seconds, micros = yield Send(tag, ["TIME"])
        with self._aggregates.lock:
            self._aggregates.server_time(int(seconds) * 1000 + int(micros) // 1000, time.monotonic())

    def read(self, tag: str) -> FollowerFlow[None]:
        """Read the size of a shard's feed, and the writes that it has refused."""
        length = first = None
        if self._aggregates.has_feed:
            length = yield from self._try(tag, ["XLEN", keys.feed(tag)])
            first = yield from self._try(tag, ["XRANGE", keys.feed(tag), "-", "+", "COUNT", "1"])
        refused = yield from self._try(tag, ["HGETALL", keys.refused(tag)])
        aggregates = self._aggregates
        with aggregates.lock:
            now_ms = aggregates.now_ms(time.monotonic())
            if length is not None and first is not None:
                first_ms = milliseconds_of(first[0][0]) if first else now_ms
                aggregates.feeds[tag] = FeedState(tag, length, max(0, now_ms - first_ms) / 1000)
            if refused is not None:
                aggregates.refused[tag] = refused_writes.parse(refused)
                aggregates.totals.refused(tag, aggregates.refused[tag], now_ms)

    def trimmed_until(self, tag: str) -> FollowerFlow[int]:
        """Return the time of the first entry that a shard's feed still has; 0 if it has not been trimmed."""
        length = yield from self._try(tag, ["XLEN", keys.feed(tag)])
        first = yield from self._try(tag, ["XRANGE", keys.feed(tag), "-", "+", "COUNT", "1"])
        is_full = first and length is not None and length >= self._aggregates.feed_length
        return milliseconds_of(first[0][0]) if is_full else 0

    def read_epoch(self, tag: str) -> FollowerFlow[list[bytes | None] | None]:
        """Read a shard's epoch and last generation, which grows with each room that is opened; None if it has none."""
        words = yield from self._try(tag, ["HMGET", keys.epoch(tag), "epoch", "generation"])
        return words if words and any(words) else None

    def read_owners(self, tags: Sequence[str]) -> FollowerFlow[None]:
        """Read the leases."""
        found: list[list[Owner]] = []
        for tag in tags:
            words = yield from self._try(tag, ["HGETALL", keys.leases(tag)])
            if words is None:
                return
            flat = words_of(words)
            due = (yield from self._try(tag, list_due(tag))) if has_lost(flat) else None
            now = self._aggregates.now_ms(time.monotonic()) / 1000
            found.append(parse_owners(flat, now, parse_due(due or [])))
        epoch = yield from self._try(tags[0], ["HGET", keys.epoch(tags[0]), "epoch"])
        with self._aggregates.lock:
            self._aggregates.owners = merge_owners(found)
            self._aggregates.data_began_at = epochs.began_at(epoch)

    def _try(self, tag: str, words: list[str]) -> FollowerFlow[Any]:
        try:
            return (yield from ask(tag, words))
        except MovedError:
            raise
        except ResponseError:
            return None
