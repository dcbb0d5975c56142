"""The follower: it keeps the copies of some shards current. A reflector: it lists all rooms, then watches the feed.

A session lasts as long as its connection. It begins with a resync, since the connection may lead to another server, or
to the same server without its data:

1. Read where the feed ends. No change after this position is missed.
2. List: scan all rooms and read each (with the feed id of the read), while reading on in the feed. Then read the rooms
   that were known before and that neither the scan nor the feed has named: they may be gone.
3. Read the feed to its end. Now the copy is synced.
4. Watch: read on in the feed (see session.py). If an entry may have been missed, since the feed was trimmed or is
   another server's, the next session resyncs.

Invariant: a copy that may have missed a change is not synced. Any error ends the session and marks the copy unsynced;
the next session begins over a new connection.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from redis_kvpoll.engine.effects import Send, Sleep
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.scan import Scan
from redis_kvpoll.protocol.script_call import MAX_BATCH, Call
from redis_kvpoll.replica.replica import STALE_AFTER, Replica
from redis_kvpoll.replica.requests import AskStore, FollowerFlow, Host
from redis_kvpoll.replica.session import ENTRIES, FollowerSession, MustResyncError, Pace
from redis_kvpoll.replica.sweep import RoomSweep

HEARTBEAT = 0.5
"""Seconds between reads when nothing changes. They prove that the server answers; due rooms are read then, too. Two fit
into the second that ``synced`` promises, so one may be late. 128 idle mirrors take under 1 % of the server's time."""
PRECISION = 0.5
STOPS_WITHIN = 0.25
"""The longest sleep, in seconds."""


class Follower(FollowerSession):
    """Keeps the copies of some shards, all on one server, in a replica. A driver runs ``session`` again and again.

    ``host`` is whom it works for, by weak reference. With a ``period`` (seconds) it reads that often, and none waits.
    """

    _why_resync = "the store has found another server, a change of the copy was interrupted, or the feed was not read"

    def __init__(
        self,
        replica: Replica,
        tags: Sequence[str],
        host: Host,
        clustered: bool,
        limit: float,
        can_block: bool,
        period: float = 0.0,
    ) -> None:
        what = "the follower of waits" if replica.only_waited else "the mirror"
        pace = Pace(HEARTBEAT, STALE_AFTER, PRECISION)
        super().__init__("mirror", what, replica, tags, keys.feed, host, limit, can_block, pace)
        self._replica = replica
        self._clustered = clustered
        self._period = period
        self._next_read_at = 0.0
        self._sweep = RoomSweep({tag: replica.shards[tag] for tag in tags})

    def _mark_unsynced(self) -> None:
        self._replica.mark_unsynced(self.tags)

    def _catch_up(self) -> FollowerFlow[None]:
        for tag in self.tags:
            asked_at = time.monotonic()
            feed_id, *_ = yield from self._send_script(
                self._replica.read_spec.call(self._replica.context, tag, [], [], ())
            )
            self._replica.start_resync(tag, feed_id, self._now(asked_at))
        self._continuity.start(self._positions())
        if not self._replica.only_waited:
            yield from self._walk()
        for tag in self.tags:
            yield from self._read_rooms(self._replica.shards[tag].unconfirmed())
        while not (yield from self._read(block=False)) or any(map(self._replica.uncertain, self.tags)):
            pass
        for tag in self.tags:
            self._replica.mark_synced(tag, self._resyncs_wanted)
        self.host.notify()
        self.health.succeeded()

    def _walk(self) -> FollowerFlow[None]:
        # A redirect ends the session, so the slot map is the same for the whole scan.
        scan = Scan(self._clustered, self.tags if self._clustered else None)
        while (request := scan.request(self._replica.context, 0)) is not None:
            page = scan.page((yield Send(*request)), 0)
            yield from self._read(block=False)  # first, so that a session that may not read the feed learns no rooms
            yield from self._read_rooms(page)

    def _follow(self) -> FollowerFlow[None]:
        more_due, at_end = False, True
        while not self.host.may_end(self._replica, self.tags):
            at_end = yield from self._paced(self._read(block=at_end and not more_due, sweep=True))
            more_due = False
            for tag in self.tags:
                # One batch at a time, then on in the feed. A read may leave a room due: if a new server's clock is
                # behind, the read looks older than the copy and is ignored, and only the feed decides.
                if rooms := self._replica.due(tag, time.monotonic(), MAX_BATCH):
                    yield from self._read_rooms(rooms)
                    more_due = more_due or len(rooms) == MAX_BATCH
            self.host.notify()

    def _read(self, block: bool, sweep: bool = False) -> FollowerFlow[bool]:
        """Read on in each feed; return whether that was the end. A sweep looks at some rooms in the same request."""
        if block and self._period:
            yield from self._pause()
            block = False
        swept, counting = self._sweep.part(time.monotonic()) if sweep else ([], [])
        at_end, there = yield from self._read_on(block, [counting] if counting else [])
        for tag in self.tags:
            if rooms := self._replica.uncertain(tag):
                yield from self._read_rooms(rooms)
        if counting and there[0] < len(swept):
            yield from self._read_rooms(swept)
        self._report()
        return at_end

    def _pause(self) -> FollowerFlow[None]:
        """Wait until the period is over since the end of the last pause."""
        while (left := self._next_read_at - time.monotonic()) > 0:
            yield Sleep(min(left, STOPS_WITHIN))
            self.host.may_end(self._replica, self.tags)  # raises if nobody is left
        self._next_read_at = time.monotonic() + self._period

    def _positions(self) -> list[int]:
        return [self._replica.shards[tag].position for tag in self.tags]

    def _take(self, found: Sequence[Sequence[Any]], is_proved: bool, now: float) -> None:
        for tag, entries in zip(self.tags, found, strict=True):
            self._replica.read(tag, entries, is_proved and len(entries) < ENTRIES, now)

    def _read_rooms(self, rooms: list[int]) -> FollowerFlow[None]:
        """Read rooms as they are now."""
        for call in self._read_calls(rooms):
            rest = call
            while rest.rooms:
                rest = yield from self._read_call(rest)

    def _read_call(self, call: Call) -> FollowerFlow[Call]:
        """Read the rooms of a call, or the first of them. Returns the call for the rest."""
        was_asked = is_gone = False
        while True:
            asked_at = time.monotonic()
            feed_id, *reply = yield from self._send_script(call)
            done, rest = call.split(reply)
            lost = None if is_gone else self._lost_and_held(done, reply)
            if lost is None:
                break
            if was_asked:
                raise MustResyncError("the store has rooms that were not found")
            was_asked, is_gone = True, not (yield from self._ask_store(lost))
        self._replica.snapshot(call.tag, feed_id, done.rooms, reply, self._now(asked_at), asked_at)
        return rest

    def _lost_and_held(self, call: Call, reply: list[Any]) -> int | None:
        """Return a room that the store holds and the server does not have; None if there is none."""
        is_held, width = self.host.is_held, len(call.spec.reply)
        gone = (room for room, left_ms in zip(call.rooms, reply[1::width], strict=True) if left_ms == -2)
        return next((room for room in gone if is_held(call.tag, room)), None)

    def _ask_store(self, room: int) -> FollowerFlow[bool]:
        """Let the store repair a loss of data, before rooms that it is about to restore are shown as gone.

        Returns whether the room is there. If it is still not found then, the store is on another server.
        """
        answer = yield AskStore(self.host, room)
        if isinstance(answer, KVPollError):
            raise answer
        return bool(answer)

    def _read_calls(self, rooms: list[int]) -> Iterator[Call]:
        context = self._replica.context
        by_tag: dict[str, list[int]] = {tag: [] for tag in self.tags}
        for room in rooms:
            tag = keys.tag(context.namespace, context.shards, room)
            # A key under another shard's tag was made by hand.
            if tag in by_tag and self._replica.shards[tag].is_relevant(room):
                by_tag[tag].append(room)
        for tag, some in by_tag.items():
            spec, size = self._replica.read_spec, self._replica.read_spec.max_rooms
            for at in range(0, len(some), size):
                yield spec.call(context, tag, some[at : at + size], [], ())
