"""Reads the change feed for display: the history of one room, and the tail of all.

A reader does no I/O: it names the next request and takes its reply (see FeedReader). ``engine/reads`` runs it. To add a
reader: write another class with what that protocol has.
"""

from __future__ import annotations

from typing import Any, Protocol

from redis_kvpoll import validation
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.feed import Change, FeedGap, changes
from redis_kvpoll.protocol.feed_ids import number_of
from redis_kvpoll.protocol.script_call import CallContext

PAGE = 1000
"""Entries per reply."""
START = "0-0"
"""A position before all entries."""


class FeedReader(Protocol):
    """A reader of feeds, one request at a time."""

    pause: float
    """Seconds to wait before the next request."""

    def request(self, context: CallContext) -> tuple[str, list[str]] | None:
        """Return the shard and the words of the next request; None at the end."""
        ...

    def take(self, reply: list[Any]) -> None:
        """Take the reply to the last request: [[id, fields], ...]."""
        ...


class History:
    """The changes of one room that the feed still has.

    It reads backwards from the newest, so changes that arrive during the reading do not prolong it.
    """

    pause = 0.0

    def __init__(self, room: Any) -> None:
        with validation.of("history"):
            self._room = validation.room(room)
        self._before: str | None = "+"
        self._found: list[list[Change]] = []

    def request(self, context: CallContext) -> tuple[str, list[str]] | None:
        if self._before is None:
            return None
        tag = keys.tag(context.namespace, context.shards, self._room)
        return tag, ["XREVRANGE", keys.feed(tag), self._before, "-", "COUNT", str(PAGE)]

    def take(self, reply: list[Any]) -> None:
        name = b"%d" % self._room
        for entry_id, fields in reply:
            if name in fields:
                self._found.append([change for change in changes(entry_id, fields) if change.room == self._room])
        self._before = f"({reply[-1][0].decode()}" if len(reply) == PAGE else None

    def changes(self) -> list[Change]:
        """The oldest first."""
        return [change for found in reversed(self._found) for change in found]


class _ShardTail:
    """How far the feed of one shard was read."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.key = keys.feed(tag)
        self.position = START
        self.must_exist = False
        """Whether the entry at this position was read; if not, an entry that is found there is new."""
        self.newest_before: str | None = "+"
        """The end of the next read of the newest entries; None once they are found, and later entries are read."""
        self.found = 0


class Tail:
    """The last changes of all shards, then the new ones, without end.

    A round reads each shard once. XREAD does not report entries that were trimmed before they were read. So each
    request begins with the entry that was read last, which must still exist. No request blocks on the server: a
    blocked connection is not free for other calls.

    It reads up to ``before`` more changes than the last ones, for a caller that asks whose their rooms are.
    """

    IDLE = 0.05
    """Seconds between rounds when nothing is new: too short to be noticed."""

    def __init__(self, last: Any, before: int = 0) -> None:
        with validation.of("tail"):
            self._last = validation.count(last, "last")
        self._wanted = self._last + before
        """Changes of each shard in the first round."""
        self.before: list[Change | FeedGap] = []
        """The changes before the last ones, from the first news on."""
        self.pause = 0.0
        self._shards: list[_ShardTail] | None = None
        self._turn = 0
        self._is_first_round = True
        self._new: list[tuple[int, Change | FeedGap]] = []

    def request(self, context: CallContext) -> tuple[str, list[str]] | None:
        if self._shards is None:
            self._shards = [_ShardTail(tag) for tag in keys.tags(context.namespace, context.shards)]
        if self._turn == len(self._shards):
            return None
        shard = self._shards[self._turn]
        if shard.newest_before is not None:
            count = min(max(self._wanted - shard.found, 1), PAGE) if self._is_first_round else 1
            return shard.tag, ["XREVRANGE", shard.key, shard.newest_before, "-", "COUNT", str(count)]
        return shard.tag, ["XRANGE", shard.key, shard.position, "+", "COUNT", str(PAGE)]

    def take(self, reply: list[Any]) -> None:
        assert self._shards is not None  # noqa: S101 - there is no reply before the first request
        shard = self._shards[self._turn]
        if shard.newest_before is None:
            self._take_new(shard, reply)
            self._turn += 1
        elif self._is_first_round:
            self._take_last(shard, reply)
            self._turn += shard.newest_before is None
        else:
            self._find_position(shard, reply)
            self._turn += 1
        self.pause = 0.0

    def news(self) -> list[Change | FeedGap]:
        """Return the changes of this round in the order of their ids, which are times, and begin the next round."""
        self._new.sort(key=lambda found: found[0])
        news = [change for _, change in self._new]
        if self._is_first_round:
            first = max(len(news) - self._last, 0)
            self.before += news[max(len(news) - self._wanted, 0) : first]
            news = news[first:]
        self._new, self._turn, self._is_first_round = [], 0, False
        self.pause = 0.0 if news else self.IDLE
        return news

    def _take_last(self, shard: _ShardTail, reply: list[Any]) -> None:
        """Take the last entries, which come newest first."""
        if reply and not shard.must_exist:
            shard.position, shard.must_exist = reply[0][0].decode(), True
        for entry_id, fields in reply:
            found = changes(entry_id, fields)
            shard.found += len(found)
            self._new += [(number_of(entry_id), change) for change in found]
        is_enough = not reply or shard.found >= self._wanted
        shard.newest_before = None if is_enough else f"({reply[-1][0].decode()}"

    def _take_new(self, shard: _ShardTail, reply: list[Any]) -> None:
        """Take the entry that was read last, and the later ones."""
        if shard.must_exist:
            first = reply[0][0].decode() if reply else None
            if first == shard.position:
                reply = reply[1:]
            else:
                gap = FeedGap(shard.position, first)
                self._new.append((number_of((first or shard.position).encode()), gap))
            if not first:
                shard.must_exist, shard.newest_before = False, "+"
        for entry_id, fields in reply:
            self._new += [(number_of(entry_id), change) for change in changes(entry_id, fields)]
        if reply:
            shard.position, shard.must_exist = reply[-1][0].decode(), True

    def _find_position(self, shard: _ShardTail, reply: list[Any]) -> None:
        """Set the position in a feed that was lost: nothing was left from the last entry read on.

        It may be an older copy now, whose new entries, with ids before our position, would never be read.
        """
        shard.newest_before = None
        if not reply:
            shard.position = START
        elif number_of(reply[0][0]) < number_of(shard.position.encode()):
            shard.position, shard.must_exist = reply[0][0].decode(), True
