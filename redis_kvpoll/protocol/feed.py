"""The change feed: the parser of its entries, and the readers behind ``history`` and ``tail``.

An entry is a flat list of names and values, as lua/include/feed.lua writes it. The parser skips names that it does not
know and entries that were written by hand, so that no entry can stop a reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from redis_kvpoll import validation
from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.script_call import CallContext

_STATUSES: dict[Any, KVPoll | None] = {b"absent": None, **{status.name.encode(): status for status in KVPoll}}


class Change(NamedTuple):
    """One change of one room, from the feed."""

    id: str
    """The id of the entry in the feed; all changes of one entry share it."""
    at: float
    """The time of the change: Unix time of the Redis server, in seconds."""
    room: int
    status: KVPoll | None
    """The status of the room after the change; None when it was cleared. With ranks: their consensus, and None when the
    last rank has cleared."""
    reason: str | None = None
    """The failure reason, if this change recorded it."""
    ttl: float | None = None
    """The room's new TTL in seconds; None if it did not change, or the room was cleared."""
    rank: int | None = None
    """The rank that wrote the change; None for changes of all ranks, such as abort and touch."""
    rank_status: KVPoll | None = None
    """The new status of that rank; None when it has cleared."""


def changes(entry_id: bytes, fields: Sequence[Any]) -> list[Change]:
    """Return the changes in one entry of the feed, in order."""
    found: list[Change] = []
    at = _milliseconds(entry_id.partition(b"-")[0]) or 0.0
    shown_id = entry_id.decode("ascii", "replace")
    ttl = None
    is_known = False  # whether the previous room is in the list
    for name, value in zip(fields[::2], fields[1::2], strict=False):
        if name == b"ttl_ms":
            ttl = _milliseconds(value)
        elif name == b"reason":
            if is_known and isinstance(value, bytes):
                found[-1] = found[-1]._replace(reason=value.decode("utf-8", "replace"))
        elif (rank := _rank(name)) is not None:
            if is_known and value in _STATUSES:
                found[-1] = found[-1]._replace(rank=rank, rank_status=_STATUSES[value])
        elif (room := _room(name)) is not None:
            is_known = value in _STATUSES
            if is_known:
                status = _STATUSES[value]
                found.append(Change(shown_id, at, room, status, ttl=None if status is None else ttl))
    return found


def _room(name: Any) -> int | None:
    """Return the room if a name is a canonical room id."""
    if not isinstance(name, bytes) or not name.isdigit() or len(name) > 19 or (name[0] == 0x30 and name != b"0"):
        return None
    number = int(name)
    return number if number <= validation.MAX_ROOM else None


def _rank(name: Any) -> int | None:
    """Return the rank in ``rank:3`` or ``first:3``."""
    if not isinstance(name, bytes) or not name.startswith((b"rank:", b"first:")):
        return None
    digits = name.partition(b":")[2]
    return int(digits) if digits.isdigit() and len(digits) <= len(str(validation.MAX_WORLD_SIZE)) else None


def _milliseconds(value: Any) -> float | None:
    """Return seconds from decimal milliseconds."""
    return int(value) / 1000 if isinstance(value, bytes) and value.isdigit() and len(value) <= 20 else None


class FeedGap(NamedTuple):
    """Changes may be missing here: the feed was trimmed before they were read, or it was lost and started again."""

    after: str
    """The id of the last entry that was read; the feed no longer has it."""
    before: str | None
    """The id of the next entry; None if there is none yet."""


PAGE = 1000
"""Entries per reply."""
START = "0-0"
"""The position before all entries."""


class FeedReader(Protocol):
    """A reader of feeds, as ``Executor.read_feed`` drives it: request, reply, request …"""

    pause: float
    """Seconds to wait before the next request."""

    def request(self, context: CallContext) -> tuple[str, list[str]] | None:
        """Return the shard and the command of the next request; None when this pass is complete."""
        ...

    def take(self, reply: list[Any]) -> None:
        """Process the reply to the last request: [[id, fields], ...]."""
        ...


class History:
    """The changes of one room that the feed still has.

    It reads backwards from the newest entry, so changes that arrive meanwhile do not prolong it.
    """

    pause = 0.0

    def __init__(self, room: Any) -> None:
        try:
            self._room = validation.room(room)
        except InvalidInputError as error:
            raise InvalidInputError(f"history: {error}") from None
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
        """Return the changes, oldest first."""
        return [change for found in reversed(self._found) for change in found]


class _ShardPosition:
    """The position of a Tail in the feed of one shard."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.key = keys.feed(tag)
        self.position = START
        self.is_at_entry = False
        """Whether the entry at this position was read. If not, an entry at this position is new."""
        self.newest_before: str | None = "+"
        """Where to search backwards for the newest entries; None when new entries are read forwards."""
        self.found = 0
        """Changes found by the search backwards."""


class Tail:
    """The last changes of all shards, then each new one, without end.

    It reads in rounds; each round polls every shard once. XREAD does not report entries that were trimmed before they
    were read, so each request starts at the last entry that was read: if the reply lacks it, there is a FeedGap. The
    requests do not block on the server, because a blocked connection is not available to other calls.
    """

    POLL_INTERVAL = 0.05
    """Seconds between two rounds without news. A person does not notice them."""

    def __init__(self, last: Any) -> None:
        try:
            self._last = validation.count(last, "last")
        except InvalidInputError as error:
            raise InvalidInputError(f"tail: {error}") from None
        self.pause = 0.0
        self._shards: list[_ShardPosition] | None = None
        self._shard_index = 0
        self._is_first_round = True
        self._news: list[tuple[tuple[int, int], Change | FeedGap]] = []

    def request(self, context: CallContext) -> tuple[str, list[str]] | None:
        if self._shards is None:
            self._shards = [_ShardPosition(tag) for tag in keys.tags(context.namespace, context.shards)]
        if self._shard_index == len(self._shards):
            return None
        shard = self._shards[self._shard_index]
        if shard.newest_before is not None:
            count = min(max(self._last - shard.found, 1), PAGE) if self._is_first_round else 1
            return shard.tag, ["XREVRANGE", shard.key, shard.newest_before, "-", "COUNT", str(count)]
        return shard.tag, ["XRANGE", shard.key, shard.position, "+", "COUNT", str(PAGE)]

    def take(self, reply: list[Any]) -> None:
        assert self._shards is not None  # noqa: S101 - there is no reply before the first request
        shard = self._shards[self._shard_index]
        if shard.newest_before is None:
            self._read_forwards(shard, reply)
            self._shard_index += 1
        elif self._is_first_round:
            self._read_backwards(shard, reply)
            self._shard_index += shard.newest_before is None
        else:
            self._reset_position(shard, reply)
            self._shard_index += 1
        self.pause = 0.0

    def news(self) -> list[Change | FeedGap]:
        """Return what the round has found, ordered by id, which is a time; then the next round may start."""
        self._news.sort(key=lambda found: found[0])
        news = [change for _, change in self._news]
        if self._is_first_round:
            news = news[max(len(news) - self._last, 0) :]
        self._news, self._shard_index, self._is_first_round = [], 0, False
        self.pause = 0.0 if news else self.POLL_INTERVAL
        return news

    def _read_backwards(self, shard: _ShardPosition, reply: list[Any]) -> None:
        """Process the last entries, newest first."""
        if reply and not shard.is_at_entry:
            shard.position, shard.is_at_entry = reply[0][0].decode(), True
        for entry_id, fields in reply:
            found = changes(entry_id, fields)
            shard.found += len(found)
            self._news += [(_order(entry_id), change) for change in found]
        is_done = not reply or shard.found >= self._last
        shard.newest_before = None if is_done else f"({reply[-1][0].decode()}"

    def _read_forwards(self, shard: _ShardPosition, reply: list[Any]) -> None:
        """Process the new entries. The first entry of the reply must be the last one that was read."""
        if shard.is_at_entry:
            first = reply[0][0].decode() if reply else None
            if first == shard.position:
                reply = reply[1:]
            else:
                gap = FeedGap(shard.position, first)
                self._news.append((_order((first or shard.position).encode()), gap))
            if not first:
                shard.is_at_entry, shard.newest_before = False, "+"
        for entry_id, fields in reply:
            self._news += [(_order(entry_id), change) for change in changes(entry_id, fields)]
        if reply:
            shard.position, shard.is_at_entry = reply[-1][0].decode(), True

    def _reset_position(self, shard: _ShardPosition, reply: list[Any]) -> None:
        """Set the position after a feed was empty: the server lost it, or restored an older one.

        Entries with ids below the old position would otherwise never be read.
        """
        shard.newest_before = None
        if not reply:
            shard.position = START
        elif _order(reply[0][0]) < _order(shard.position.encode()):
            shard.position, shard.is_at_entry = reply[0][0].decode(), True


def _order(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number)
