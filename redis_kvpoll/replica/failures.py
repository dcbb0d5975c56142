"""The follower of failures: what becomes Failed of the rooms that a process holds, without the rest of the table.

A session reads on where the last one ended, if that entry is still there with the same words: then the server has all
that was read, and what follows is new. Else it starts afresh: it notes where the stream of failures ends, then reads
the rooms that the process holds, and no others. A room that is absent there is unknown, never failed.

A process may say late what it holds. So the latest failures are remembered, those of other rooms included: each one
since ``complete_since``. Whether a room has failed before that, only reading it tells.

An entry is about one generation. A caller that holds another generation of the room ignores it: the room may have been
aborted, cleared and opened again before the entry was read.

Invariant: while the log is synced, every failure of a held room was delivered that happened since the room was held and
before the last proof (see continuity.py), or the room was read since.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from redis.exceptions import ResponseError

from redis_kvpoll import validation
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.model import RoomFailure
from redis_kvpoll.protocol import failures, keys
from redis_kvpoll.protocol.feed_ids import number_of, text_of
from redis_kvpoll.protocol.script_call import CallContext
from redis_kvpoll.protocol.script_specs import FAILURES
from redis_kvpoll.replica.requests import FollowerFlow, Host
from redis_kvpoll.replica.session import ENTRIES, FollowerSession, Pace

ROOMS = 500
"""Rooms in one read. It blocks the server for about 2 ms."""
HEARTBEAT = 2.5
"""Seconds between reads while nothing fails: two followers in each of 128 processes cost the server 1 % of its time. A
failure is read at once."""
REMEMBER_SECONDS = 10.0
"""How long a failure is remembered, for a process that says late what it holds."""
MAX_REMEMBERED = 10_000
STALE_AFTER = 6.0
"""Seconds without a proof after which failures may be missing: two heartbeats, and one for a slow moment."""


class FailureLog:
    """The failures of the rooms that ``rooms`` returns, those that are being opened included.

    ``latest`` is free to read. Only the followers change it, each its own shards, and the store's own opens. ``lock``
    must be reentrant: a finalizer may open a room.
    """

    def __init__(
        self, context: CallContext, rooms: Callable[[], Iterable[int]], lock: AbstractContextManager[Any]
    ) -> None:
        self.context = context
        self.latest: dict[int, RoomFailure] = {}
        self.recent: OrderedDict[int, tuple[RoomFailure, float]] = OrderedDict()
        """The latest failures of all rooms, and when they were read, in monotonic seconds; the oldest first."""
        self.complete_since = float("-inf")
        """``recent`` has each failure that happened later, once it is read. In monotonic seconds."""
        self.resyncs_wanted = 0
        """Grows when the store has found another server: a follower's may be the former one."""
        self.news: deque[RoomFailure] = deque()
        self._rooms = rooms
        self._lock = lock
        """Of ``recent``, ``complete_since`` and ``latest``, which followers and callers change, each in its thread."""
        self._proved_at = dict.fromkeys(keys.tags(context.namespace, context.shards), float("-inf"))

    def held(self, tag: str) -> list[int]:
        """Return the rooms of a shard that the process holds."""
        namespace, shards = self.context.namespace, self.context.shards
        return [room for room in self._held_rooms() if keys.tag(namespace, shards, room) == tag]

    def deliver(self, found: Sequence[RoomFailure], of_rooms: bool = False) -> None:
        """Take the failures of held rooms; remember those of others for a while only.

        ``of_rooms``: as the rooms say now. What they say may be known; an entry is read once, and under compat it may
        be the next failure of a generation that had left Failed.
        """
        known = self.latest.copy()  # before ``held``, which lacks the rooms that are opened from now on
        if not found and not known:
            return
        held, may_be_known = set(self._held_rooms()), of_rooms or self.context.policy == "strict"
        for failure in found:
            kept = self.latest.get(failure.room) if may_be_known else None
            if kept is not None and kept[:2] == failure[:2] and failure.reason in (None, kept.reason):
                continue
            self._remember(failure)
            if failure.room in held:
                self.opened([failure])
                self.news.append(failure)
        with self._lock:
            for room, failure in known.items():
                if room not in held and self.latest.get(room) is failure:
                    del self.latest[room]

    def _held_rooms(self) -> list[int]:
        """Return what ``rooms`` does, checked: a room as a str would be no failure's, without a word."""
        found = self._rooms()
        with validation.of("failures: what rooms= returned"):
            return validation.rooms(validation.listed(found))

    def opened(self, found: Iterable[RoomFailure]) -> None:
        """Take the failures that an open of this process was told."""
        with self._lock:
            self.latest.update((failure.room, failure) for failure in found)

    def _remember(self, failure: RoomFailure) -> None:
        now = time.monotonic()
        with self._lock:
            self.recent.pop(failure.room, None)
            self.recent[failure.room] = failure, now
            while True:
                oldest = next(iter(self.recent))
                read_at = self.recent[oldest][1]
                if read_at > now - REMEMBER_SECONDS and len(self.recent) <= MAX_REMEMBERED:
                    return
                del self.recent[oldest]
                self.complete_since = max(self.complete_since, read_at)

    def starts_afresh(self) -> None:
        """Note that a follower has found where to read on, and will not read what failed before."""
        with self._lock:
            self.complete_since = max(self.complete_since, time.monotonic())

    def prove(self, tags: Iterable[str], at: float) -> None:
        """Everything in these shards up to a time was delivered."""
        for tag in tags:
            self._proved_at[tag] = at

    def lag(self, now: float) -> float:
        return now - min(self._proved_at.values())

    def is_synced(self, now: float) -> bool:
        return self.lag(now) < STALE_AFTER


class FailureFollower(FollowerSession):
    """Delivers the failures of some shards, all on one server, to a log."""

    _stream = "the stream of failures"

    def __init__(self, log: FailureLog, tags: Sequence[str], host: Host, limit: float, can_block: bool) -> None:
        what, pace = "the follower of failures", Pace(HEARTBEAT, STALE_AFTER, HEARTBEAT)
        super().__init__("failures", what, log, tags, keys.failed, host, limit, can_block, pace)
        self._log = log
        self._read_up_to = [0] * len(tags)
        self._words: list[list[bytes] | None] = [None] * len(tags)
        """What the entries at the positions say."""

    def _positions(self) -> Sequence[int]:
        return self._read_up_to

    def _mark_unsynced(self) -> None:
        self._log.prove(self.tags, float("-inf"))

    def _catch_up(self) -> FollowerFlow[None]:
        if None in self._words or self._words != (yield from self._entries_there()):
            for number, tag in enumerate(self.tags):
                self._read_up_to[number] = yield from self._read_rooms(tag)
            self._words = yield from self._entries_there()
        self._continuity.start(self._read_up_to)
        while not (yield from self._read(block=False)):
            pass
        self.health.succeeded()

    def _entries_there(self) -> FollowerFlow[list[list[bytes] | None]]:
        """Return what the entries at the positions say; None for one that is not there."""
        places = zip(self._streams, map(text_of, self._read_up_to), strict=True)
        first, *others = [["XRANGE", stream, at, at] for stream, at in places]
        try:
            reply = yield Send(self.tags[0], first, then=others)
        except ResponseError as error:
            if str(error).startswith("WRONGTYPE"):  # made by hand: the next session starts afresh, which mends it
                self._words = [None] * len(self.tags)
            raise
        return [found[0][1] if found else None for found in (reply if others else [reply])]

    def _read_rooms(self, tag: str) -> FollowerFlow[int]:
        """Read the rooms that the process holds; return the position from which to read on."""
        position, context = None, self._log.context
        held = self._log.held(tag)
        for at in range(0, max(len(held), 1), ROOMS):
            rooms = held[at : at + ROOMS]
            asked_at = time.monotonic()
            feed_id, *reply = yield from self._send_script(FAILURES.call(context, tag, rooms, [], ()))
            self._now(asked_at)
            if position is None:
                position = number_of(feed_id)
                self._log.starts_afresh()
            self._log.deliver(failures.of_rooms(rooms, reply), of_rooms=True)
        assert position is not None  # noqa: S101 - it was asked once at least
        return position

    def _follow(self) -> FollowerFlow[None]:
        while True:
            yield from self._paced(self._read(block=True))

    def _read(self, block: bool) -> FollowerFlow[bool]:
        """Read on in each stream; return whether that was the end."""
        is_end, _ = yield from self._read_on(block)
        self._report()
        return is_end

    def _take(self, found: Sequence[Sequence[Any]], is_proved: bool, now: float) -> None:
        delivered: list[RoomFailure] = []
        for entries in found:
            for _, words in entries:
                delivered += failures.parse_entry(words)
        self._log.deliver(delivered)  # first: if ``rooms`` fails, the next session reads them again
        for number, entries in enumerate(found):
            if entries:
                self._read_up_to[number], self._words[number] = number_of(entries[-1][0]), entries[-1][1]
        if is_proved and all(len(entries) < ENTRIES for entries in found):
            self._log.prove(self.tags, now)
