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

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from redis.backoff import EqualJitterBackoff
from redis.exceptions import AskError, NoScriptError, RedisError

from redis_kvpoll.engine import classify, remedies
from redis_kvpoll.engine.classify import Failure, NotSent
from redis_kvpoll.engine.effects import Flow, FollowRedirect, Send, Sleep
from redis_kvpoll.errors import KVPollError, ServerRefusedError, StoreUnavailableError, printable
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.scan import Scan
from redis_kvpoll.protocol.script_call import MAX_BATCH, Call
from redis_kvpoll.protocol.settings import RENEW_SECONDS, ExpectedSettings
from redis_kvpoll.replica.replica import STALE_AFTER, Replica
from redis_kvpoll.replica.shard import text_of

logger = logging.getLogger("redis_kvpoll.mirror")

ENTRIES = 1000
"""Entries of each shard in one read."""
HEARTBEAT = 0.25
"""Seconds between reads when nothing changes. They prove that the server answers; due rooms are read then, too."""
COALESCE_DELAY = 0.0003
"""Seconds between reads while changes follow closely. To wake for each would cost a writer under the same GIL as much
as the write itself. The first change after a quiet moment is read at once."""
POLL_INTERVAL = 0.01
"""Seconds between reads where a read cannot block: in memory://."""
REJECTED_RETRY = 2.0
"""Seconds between sessions while the server rejects the connection: a person has to correct that."""

# Seconds, as in engine/retry.py: from about 10 ms, the time that a restarted server needs to accept, to 0.25 s.
_BACKOFF = EqualJitterBackoff(cap=0.25, base=0.01)


class _MustResync(Exception):  # noqa: N818 - never seen outside
    """The connection is open, but the copy may have missed a change."""


class Follower:
    """Keeps the copies of some shards, all on one server, in a replica. A driver runs ``session`` again and again.

    ``expected_settings`` gives the store's settings, which each new connection is checked for; ``limit`` (seconds) is
    how long the transport waits for a reply, and ``can_block`` whether a read may wait on the server; ``notify`` is
    called without the lock when there may be changes to report; ``progressed`` when ``began`` or ``failure`` changes;
    ``may_end`` returns whether the follower is no longer needed; if so, it has marked its shards unsynced.
    """

    def __init__(
        self,
        replica: Replica,
        tags: Sequence[str],
        expected_settings: Callable[[], ExpectedSettings],
        clustered: bool,
        limit: float,
        can_block: bool,
        notify: Callable[[], object],
        progressed: Callable[[], object],
        may_end: Callable[[], bool],
    ) -> None:
        self.tags = tags
        self.began = False
        """Whether the copy has been synced once."""
        self.failure: KVPollError | None = None
        """Why it is not synced yet; read only until ``began``."""
        self._replica = replica
        self._expected = expected_settings
        self._clustered = clustered
        self._limit = limit
        self._can_block = can_block
        self._notify = notify
        self._progressed = progressed
        self._may_end = may_end
        self._feeds = [keys.feed(tag) for tag in tags]
        self._block = str(max(1, int(min(HEARTBEAT, limit / 3) * 1000)))
        self._failures_in_a_row = 0
        self._warned = False
        self._server_changes = 0
        self._checked_at = 0.0
        self._answered_at = time.monotonic()

    def session(self) -> Flow[float | None]:
        """Follow until an error; return the seconds to wait before the next session, or None when it may end.

        It needs a new connection and its own transport, whose slot map it updates.
        """
        self._server_changes = self._replica.server_changes
        is_over = False
        try:
            yield from self._check_settings()
            yield from self._resync()
            yield from self._follow_feed()
            is_over = True
            return None
        except AskError as redirect:
            self._replica.mark_unsynced(self.tags)
            if not (yield FollowRedirect(redirect)):
                return self._rejected(ServerRefusedError(f"mirror: {printable(classify.describe_rejection(redirect))}"))
            return self._lost(redirect)
        except _MustResync as error:
            return self._lost(error)
        except (NotSent, RedisError, OSError) as error:
            failure = classify.classify(error, self._failures_in_a_row)
            if failure is not Failure.REJECTED or str(error).startswith("UNBLOCKED"):
                return self._lost(classify.root_cause(error))
            return self._rejected(
                ServerRefusedError(f"mirror: {printable(classify.describe_rejection(classify.root_cause(error)))}")
            )
        except KVPollError as error:
            return self._rejected(error)
        except Exception as error:
            # Most likely raised by the predicate. An old copy must not stay marked as synced.
            return self._rejected(KVPollError(f"mirror: its rooms= most likely raised {printable(repr(error))}"), error)
        finally:
            if not is_over:  # else another follower may have these shards by now
                self._replica.mark_unsynced(self.tags)

    # The session, in order

    def _check_settings(self) -> Flow[None]:
        """Check the settings: a server that has lost its data may have other ones by now."""
        expected = self._expected()
        if expected.read_only:
            reply = yield Send(expected.namespace, expected.reading())
            expected.check_exists("mirror", reply)
        else:
            reply = yield from self._send_script(expected.call())
        expected.read(reply)
        self._checked_at = time.monotonic()

    def _resync(self) -> Flow[None]:
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
        while not (yield from self._read(block=False)):
            pass
        for tag in self.tags:
            self._replica.mark_synced(tag, self._server_changes)
        self._notify()
        self._succeeded()

    def _walk(self) -> Flow[None]:
        # A redirect ends the session, so the slot map is the same for the whole scan.
        scan = Scan(self._clustered, self.tags if self._clustered else None)
        while (request := scan.request(self._replica.context, 0)) is not None:
            page = scan.page((yield Send(*request)), 0)
            yield from self._read_rooms(page)
            yield from self._read(block=False)

    def _follow_feed(self) -> Flow[None]:
        more_due = False
        while not self._may_end():
            asked_at = time.monotonic()
            yield from self._read(block=not more_due)
            if time.monotonic() - asked_at > STALE_AFTER:
                # The server stood still, or this process. Another server may have taken over in the meantime, so a new
                # connection asks which is the primary now.
                raise _MustResync(f"no answer for {STALE_AFTER:g} s")
            if time.monotonic() - asked_at < 2 * COALESCE_DELAY:
                yield Sleep(COALESCE_DELAY)
            more_due = False
            for tag in self.tags:
                # One batch at a time, then on in the feed. A read may leave a room due: if a new server's clock is
                # behind, the read looks older than the copy and is ignored, and only the feed decides.
                if rooms := self._replica.due(tag, time.monotonic(), MAX_BATCH):
                    yield from self._read_rooms(rooms)
                    more_due = more_due or len(rooms) == MAX_BATCH
            self._notify()
            if time.monotonic() > self._checked_at + RENEW_SECONDS:
                yield from self._check_settings()

    def _read(self, block: bool) -> Flow[bool]:
        """Read on in each feed; return whether that was the end."""
        if block and not self._can_block:
            yield Sleep(POLL_INTERVAL)
            block = False
        shards = [self._replica.shards[tag] for tag in self.tags]
        positions = [text_of(shard.position) for shard in shards]
        wait = ["BLOCK", self._block] if block else []
        words = ["XREAD", "COUNT", str(ENTRIES), *wait, "STREAMS", *self._feeds, *positions]
        checks = [["XRANGE", feed, at, at] for feed, at in zip(self._feeds, positions, strict=True)]
        asked_at = time.monotonic()
        reply, *positions_exist = yield Send(self.tags[0], words, then=checks)
        # A feed that did not exist when a store with read_only=True looked has all its entries after the position.
        if not all(found or shard.position == 0 for found, shard in zip(positions_exist, shards, strict=True)):
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
        self._notify()
        if self._replica.server_changes != self._server_changes:
            raise _MustResync("the store has found another server")
        return all_read

    def _read_rooms(self, rooms: list[int]) -> Flow[None]:
        """Read rooms as they are now."""
        for call in self._read_calls(rooms):
            asked_at = time.monotonic()
            feed_id, *reply = yield from self._send_script(call)
            self._replica.snapshot(call.tag, feed_id, call.rooms, reply, self._now(asked_at))

    def _read_calls(self, rooms: list[int]) -> Iterator[Call]:
        context = self._replica.context
        by_tag: dict[str, list[int]] = {tag: [] for tag in self.tags}
        for room in rooms:
            tag = keys.tag(context.namespace, context.shards, room)
            # A key under another shard's tag was made by hand.
            if tag in by_tag and self._replica.shards[tag].is_relevant(room):
                by_tag[tag].append(room)
        for tag, some in by_tag.items():
            for at in range(0, len(some), MAX_BATCH):
                yield self._replica.read_spec.call(context, tag, some[at : at + MAX_BATCH], [], ())

    def _send_script(self, call: Call) -> Flow[Any]:
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
        self._answered_at = time.monotonic()
        return self._answered_at if self._answered_at - asked_at < 2 * HEARTBEAT else asked_at

    # Success and failure

    def _succeeded(self) -> None:
        if self._warned:
            logger.info("%s is current again", self._name)
        self._warned, self._failures_in_a_row = False, 0
        if not self.began:
            self.began, self.failure = True, None
            self._progressed()

    def _lost(self, error: BaseException) -> float:
        """Note an error that is usually temporary. The next session begins at once if this one had synced."""
        if not self._warned:
            self._warned = True
            logger.warning("%s is not current until it has resynced: %s", self._name, printable(str(error)))
        if not self.began and time.monotonic() - self._answered_at >= self._limit:
            what = f"mirror: no answer for {self._limit:g} s (last: {printable(remedies.text_of(error)).rstrip('.')})"
            self._fail(StoreUnavailableError(f"{what}: {remedies.remedy(error)}"))
        self._failures_in_a_row += 1
        return 0.0 if self._failures_in_a_row == 1 else float(_BACKOFF.compute(self._failures_in_a_row))

    def _rejected(self, error: KVPollError, cause: BaseException | None = None) -> float:
        """Note an error that a person must correct."""
        if self.began and str(error) != str(self.failure):
            logger.error("%s is not current, and retries slowly: %s", self._name, error, exc_info=cause)
        self._warned = True
        self._fail(error)
        return REJECTED_RETRY

    def _fail(self, error: KVPollError) -> None:
        self.failure = error
        self._progressed()

    @property
    def _name(self) -> str:
        what = "the follower of waits" if self._replica.only_waited else "the mirror"
        return f"{what} of namespace {self._replica.context.namespace!r}"
