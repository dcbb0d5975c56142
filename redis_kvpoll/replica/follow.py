"""The follower: it keeps the copies of some shards current. A reflector: it lists all rooms, then watches the feed.

A session lasts as long as its connection. It begins with a resync, since the connection may lead to another server, or
to the same server without its data:

1. Read where the feed ends. No change after this position is missed.
2. List: scan all rooms and read each (with the feed id of the read), while reading on in the feed. Then read the rooms
   that were known before and that neither the scan nor the feed has named: they may be gone.
3. Read the feed to its end. Now the copy is synced.
4. Watch: XREAD waits for the next entries. An XRANGE right after it checks that the position still exists. If it was
   trimmed, or the feed is another server's, XREAD does not report the missing entries, so the session resyncs.

Invariant: a copy that may have missed a change is not synced. Any error ends the session and marks the copy unsynced;
the next session begins over a new connection.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from redis.exceptions import AskError, NoScriptError, RedisError

from redis_kvpoll.engine import classify
from redis_kvpoll.engine.classify import Failure, NotSent
from redis_kvpoll.engine.effects import FollowRedirect, Send, Sleep
from redis_kvpoll.errors import KVPollError, ServerRefusedError, StoreUnavailableError, printable
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.scan import Scan
from redis_kvpoll.protocol.script_call import MAX_BATCH, Call
from redis_kvpoll.protocol.settings import RENEW_SECONDS
from redis_kvpoll.replica.feed_ids import text_of
from redis_kvpoll.replica.health import FollowerHealth
from redis_kvpoll.replica.replica import STALE_AFTER, Replica
from redis_kvpoll.replica.requests import AskStore, FollowerFlow, Host, OrphanedError
from redis_kvpoll.replica.sweep import RoomSweep

ENTRIES = 1000
"""Entries of each shard in one read."""
HEARTBEAT = 0.25
"""Seconds between reads when nothing changes. They prove that the server answers; due rooms are read then, too."""
COALESCE_DELAY = 0.0003
"""Seconds between reads while changes follow closely. To wake for each would cost a writer under the same GIL as much
as the write itself. The first change after a quiet moment is read at once."""
POLL_INTERVAL = 0.01
"""Seconds between reads where a read cannot block: in memory://."""


class _MustResync(Exception):  # noqa: N818 - never seen outside
    """The connection is open, but the copy may have missed a change."""


class Follower:
    """Keeps the copies of some shards, all on one server, in a replica. A driver runs ``session`` again and again.

    ``host`` is whom it works for, by weak reference; ``limit`` (seconds) is how long the transport waits
    for a reply, and ``can_block`` whether a read may wait on the server.
    """

    def __init__(
        self,
        replica: Replica,
        tags: Sequence[str],
        host: Host,
        clustered: bool,
        limit: float,
        can_block: bool,
    ) -> None:
        self.tags = tags
        what = "the follower of waits" if replica.only_waited else "the mirror"
        name = f"{what} of namespace {replica.context.namespace!r}"
        self.health = FollowerHealth(name, limit, self._progressed)
        self._replica = replica
        self.host = host
        self._clustered = clustered
        self._can_block = can_block
        self._feeds = [keys.feed(tag) for tag in tags]
        self._block = str(max(1, int(min(HEARTBEAT, limit / 3) * 1000)))
        self._resyncs_wanted = 0
        self._checked_at = 0.0
        self._follows = False
        """Whether this session has synced. Then a reply that took long counts for nothing."""
        self._sweep = RoomSweep({tag: replica.shards[tag] for tag in tags})

    def session(self) -> FollowerFlow[float | None]:
        """Follow until an error; return the seconds to wait before the next session, or None when it may end.

        It needs a new connection and its own transport, whose slot map it updates.
        """
        self._resyncs_wanted, self._follows = self._replica.resyncs_wanted, False
        self.health.session_begins()
        is_over = False
        try:
            yield from self._check_settings()
            yield from self._resync()
            yield from self._follow_feed()
            is_over = True
            return None
        except OrphanedError:
            return None
        except AskError as redirect:
            self._replica.mark_unsynced(self.tags)
            if not (yield FollowRedirect(redirect)):
                return self.health.rejected(
                    ServerRefusedError(f"mirror: {printable(classify.describe_rejection(redirect))}")
                )
            return self.health.lost(redirect)
        except (_MustResync, StoreUnavailableError) as error:
            return self.health.lost(error)
        except (NotSent, RedisError, OSError) as error:
            failure = classify.classify(error, self.health.failures_in_a_row)
            if failure is not Failure.REJECTED or str(error).startswith("UNBLOCKED"):
                return self.health.lost(classify.root_cause(error))
            return self.health.rejected(
                ServerRefusedError(f"mirror: {printable(classify.describe_rejection(classify.root_cause(error)))}")
            )
        except KVPollError as error:
            return self.health.rejected(error)
        except Exception as error:
            # Most likely raised by the predicate. An old copy must not stay marked as synced.
            return self.health.rejected(
                KVPollError(f"mirror: its rooms= most likely raised {printable(repr(error))}"), error
            )
        finally:
            if not is_over:  # else another follower may have these shards by now
                self._replica.mark_unsynced(self.tags)

    def _progressed(self) -> None:
        with contextlib.suppress(OrphanedError):
            self.host.progressed()

    # The session, in order

    def _check_settings(self) -> FollowerFlow[None]:
        """Check the settings: a server that has lost its data may have other ones by now."""
        expected = self.host.expected_settings
        if expected.read_only:
            reply = yield Send(expected.namespace, expected.reading())
            expected.check_exists("mirror", reply)
        else:
            reply = yield from self._send_script(expected.call())
        expected.read(reply)
        self._checked_at = time.monotonic()

    def _resync(self) -> FollowerFlow[None]:
        for tag in self.tags:
            asked_at = time.monotonic()
            feed_id, *_ = yield from self._send_script(
                self._replica.read_spec.call(self._replica.context, tag, [], [], ())
            )
            self._replica.start_resync(tag, feed_id, self._now(asked_at))
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
            yield from self._read_rooms(page)
            yield from self._read(block=False)

    def _follow_feed(self) -> FollowerFlow[None]:
        self._follows, more_due = True, False
        while not self.host.may_end(self._replica, self.tags):
            asked_at = time.monotonic()
            yield from self._read(block=not more_due, sweep=True)
            if time.monotonic() - asked_at < 2 * COALESCE_DELAY:
                yield Sleep(COALESCE_DELAY)
            more_due = False
            for tag in self.tags:
                # One batch at a time, then on in the feed. A read may leave a room due: if a new server's clock is
                # behind, the read looks older than the copy and is ignored, and only the feed decides.
                if rooms := self._replica.due(tag, time.monotonic(), MAX_BATCH):
                    yield from self._read_rooms(rooms)
                    more_due = more_due or len(rooms) == MAX_BATCH
            self.host.notify()
            if time.monotonic() > self._checked_at + RENEW_SECONDS:
                yield from self._check_settings()

    def _read(self, block: bool, sweep: bool = False) -> FollowerFlow[bool]:
        """Read on in each feed; return whether that was the end. A sweep looks at some rooms in the same request."""
        if block and not self._can_block:
            yield Sleep(POLL_INTERVAL)
            block = False
        shards = [self._replica.shards[tag] for tag in self.tags]
        positions = [text_of(shard.position) for shard in shards]
        wait = ["BLOCK", self._block] if block else []
        words = ["XREAD", "COUNT", str(ENTRIES), *wait, "STREAMS", *self._feeds, *positions]
        checks = [["XRANGE", feed, at, at] for feed, at in zip(self._feeds, positions, strict=True)]
        asked_at = time.monotonic()
        swept, counting = self._sweep.part(asked_at) if sweep else ([], [])
        then = [*checks, counting] if counting else checks
        reply, *replies = yield Send(self.tags[0], words, then=then)
        # A feed that did not exist when a store with read_only=True looked has all its entries after the position.
        if not all(found or shard.position == 0 for found, shard in zip(replies, shards, strict=False)):
            raise _MustResync("the feed no longer reaches back to where it was read")
        found = dict(reply.items() if isinstance(reply, dict) else reply or ())
        now, all_read = self._now(asked_at), True
        for tag, feed in zip(self.tags, self._feeds, strict=True):
            entries = found.get(feed.encode(), ())
            self._replica.read(tag, entries, len(entries) < ENTRIES, now)
            all_read = all_read and len(entries) < ENTRIES
        for tag in self.tags:
            if rooms := self._replica.uncertain(tag):
                yield from self._read_rooms(rooms)
        if counting and replies[-1] < len(swept):
            yield from self._read_rooms(swept)
        self.host.notify()
        if self._replica.resyncs_wanted != self._resyncs_wanted:
            raise _MustResync("the store has found another server, or a change of the copy was interrupted")
        return all_read

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
                raise _MustResync("the store has rooms that were not found")
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
        answer = yield AskStore(room)
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

    def _send_script(self, call: Call) -> FollowerFlow[Any]:
        words = call.words()
        try:
            return (yield Send(call.tag, words))
        except NoScriptError:
            words[:2] = "EVAL", call.spec.script.source
        return (yield Send(call.tag, words))

    def _now(self, asked_at: float) -> float:
        """Return the time as of which a reply that has just arrived is true.

        If this process was stopped in between, the reply may be as old as the request.
        """
        now = time.monotonic()
        self.health.answered(now)
        if self._follows and now - asked_at > STALE_AFTER:
            # The server stood still, or this process. Another server may have taken over in the meantime, so this reply
            # counts for nothing, and a new connection asks which is the primary now.
            raise _MustResync(f"no answer for {STALE_AFTER:g} s")
        return now if now - asked_at < 2 * HEARTBEAT else asked_at
