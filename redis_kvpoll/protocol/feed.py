"""The change feed, read: what its entries say, and how to walk over them.

An entry is a list of names and values in turn, as lua/include/feed.lua writes it. Names that are not known here are
left out, and so is whatever somebody wrote into the stream by hand: a reader must get past it.
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
    """What became of one room, as the feed tells it."""

    id: str
    """The id of the feed's entry; the changes of one entry share it."""
    at: float
    """When: the Unix time of the Redis server, in seconds."""
    room: int
    status: KVPoll | None
    """The status that the room got, or kept when it was only touched; None when it was cleared. With ranks, it is what
    they agree on, and the room is cleared with the last of them."""
    reason: str | None = None
    """Why it fails, when it was this change that said so."""
    ttl: float | None = None
    """The seconds that the room had from then on; None when they were left as they were, or it was cleared."""
    rank: int | None = None
    """The rank that changed, if it was one: what abort and touch do, they do to all."""
    rank_status: KVPoll | None = None
    """The status that this rank gave itself; None when it has cleared."""


def changes(entry_id: bytes, fields: Sequence[Any]) -> list[Change]:
    """What one entry of the feed says, in its order."""
    found: list[Change] = []
    at = _milliseconds(entry_id.partition(b"-")[0]) or 0.0
    shown_id = entry_id.decode("ascii", "replace")
    ttl = None
    is_known = False  # whether the room before is in the list
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
    """The room that a name is the id of, in the one way in which it is written."""
    if not isinstance(name, bytes) or not name.isdigit() or len(name) > 19 or (name[0] == 0x30 and name != b"0"):
        return None
    number = int(name)
    return number if number <= validation.MAX_ROOM else None


def _rank(name: Any) -> int | None:
    """The rank in ``rank:3``, or in ``first:3`` where the room begins with it."""
    if not isinstance(name, bytes) or not name.startswith((b"rank:", b"first:")):
        return None
    digits = name.partition(b":")[2]
    return int(digits) if digits.isdigit() and len(digits) <= len(str(validation.MAX_WORLD_SIZE)) else None


def _milliseconds(value: Any) -> float | None:
    """Seconds, from milliseconds in digits."""
    return int(value) / 1000 if isinstance(value, bytes) and value.isdigit() and len(value) <= 20 else None


class FeedGap(NamedTuple):
    """Changes may be missing here: the feed was trimmed before they were read, or it was lost and began anew."""

    after: str
    """The id of the last entry that was read, which the feed no longer has."""
    before: str | None
    """The id of the entry that comes next; None when there is none yet."""


PAGE = 1000
"""Entries a reply."""
START = "0-0"
"""A position before all entries."""


class FeedReader(Protocol):
    """A walk over feeds, a request at a time."""

    pause: float
    """Seconds to wait before the next request."""

    def request(self, context: CallContext) -> tuple[str, list[str]] | None:
        """(the shard to ask, the words to send) next; None when it has come to an end."""
        ...

    def take(self, reply: list[Any]) -> None:
        """Take in the reply to the last request: [[id, fields], ...]."""
        ...


class History:
    """What is left of the changes of one room.

    It goes backwards from the newest, so that changes that come meanwhile do not lengthen the way.
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
        """The oldest first."""
        return [change for found in reversed(self._found) for change in found]


class _Shard:
    """How far the feed of one shard was read."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.key = keys.feed(tag)
        self.position = START
        self.must_be_there = False
        """Whether the entry at this position was read; if not, one that is there now is new."""
        self.newest_before: str | None = "+"
        """Where to look for the newest entries; None once that is done, and what comes after them is read."""
        self.found = 0


class Tail:
    """The last changes of all shards, and then what comes, for as long as one likes.

    It is read in rounds, in each of which every shard is asked once. XREAD would say nothing of entries that were
    trimmed before they were read; so what is asked for begins with the entry that was read last, which must still be
    there. It does not wait on the server either: a connection that waits is not there for other calls.
    """

    IDLE = 0.05
    """Seconds between two rounds when there was nothing new. A person does not notice them."""

    def __init__(self, last: Any) -> None:
        try:
            self._last = validation.count(last, "last")
        except InvalidInputError as error:
            raise InvalidInputError(f"tail: {error}") from None
        self.pause = 0.0
        self._shards: list[_Shard] | None = None
        self._turn = 0
        self._is_first_round = True
        self._news: list[tuple[tuple[int, int], Change | FeedGap]] = []

    def request(self, context: CallContext) -> tuple[str, list[str]] | None:
        if self._shards is None:
            self._shards = [_Shard(tag) for tag in keys.tags(context.namespace, context.shards)]
        if self._turn == len(self._shards):
            return None
        shard = self._shards[self._turn]
        if shard.newest_before is not None:
            count = min(max(self._last - shard.found, 1), PAGE) if self._is_first_round else 1
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
            self._take_up_again(shard, reply)
            self._turn += 1
        self.pause = 0.0

    def news(self) -> list[Change | FeedGap]:
        """What the round has found, in the order of the ids, which are times. The next round may begin."""
        self._news.sort(key=lambda found: found[0])
        news = [change for _, change in self._news]
        if self._is_first_round:
            news = news[max(len(news) - self._last, 0) :]
        self._news, self._turn, self._is_first_round = [], 0, False
        self.pause = 0.0 if news else self.IDLE
        return news

    def _take_last(self, shard: _Shard, reply: list[Any]) -> None:
        """The last entries that are there, the newest first."""
        if reply and not shard.must_be_there:
            shard.position, shard.must_be_there = reply[0][0].decode(), True
        for entry_id, fields in reply:
            found = changes(entry_id, fields)
            shard.found += len(found)
            self._news += [(_order(entry_id), change) for change in found]
        is_enough = not reply or shard.found >= self._last
        shard.newest_before = None if is_enough else f"({reply[-1][0].decode()}"

    def _take_new(self, shard: _Shard, reply: list[Any]) -> None:
        """What has come since; before it, the entry that was read last."""
        if shard.must_be_there:
            first = reply[0][0].decode() if reply else None
            if first == shard.position:
                reply = reply[1:]
            else:
                gap = FeedGap(shard.position, first)
                self._news.append((_order((first or shard.position).encode()), gap))
            if not first:
                shard.must_be_there, shard.newest_before = False, "+"
        for entry_id, fields in reply:
            self._news += [(_order(entry_id), change) for change in changes(entry_id, fields)]
        if reply:
            shard.position, shard.must_be_there = reply[-1][0].decode(), True

    def _take_up_again(self, shard: _Shard, reply: list[Any]) -> None:
        """Where a feed now stands that had nothing to read any more: the server lost it, or went back to an older one.

        Ids that are older than our position would never be read.
        """
        shard.newest_before = None
        if not reply:
            shard.position = START
        elif _order(reply[0][0]) < _order(shard.position.encode()):
            shard.position, shard.must_be_there = reply[0][0].decode(), True


def _order(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number)
