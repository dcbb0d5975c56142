"""Following a feed: how a copy is made, kept up, and made afresh after whatever went wrong.

A follower's session is a flow that lasts as long as its connection does. It begins with a fresh start, since nothing
that was known before can be trusted on a connection that may lead to another server, or to the same without its data:

1. Look where the feed ends: from this position on, nothing is missed.
2. Walk over all rooms and read each (at an id that says how new it is), reading on in the feed meanwhile. Then read
   those that were known before and that neither the walk nor the feed has named: are they gone?
3. Read the feed to its end. Now the copy is synced.
4. Follow: XREAD waits for the next entries, and right behind it goes a look for the position that was read from. When
   that is gone (trimmed, or another server's feed), XREAD says nothing of it and entries may be missing: start afresh.

Any error ends the session, with the copy no longer synced, and the next begins over a new connection.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from redis.backoff import EqualJitterBackoff
from redis.exceptions import AskError, NoScriptError, RedisError

from redis_kvpoll.engine import classify
from redis_kvpoll.engine.classify import Failure, NotSent
from redis_kvpoll.engine.effects import Flow, FollowRedirect, Send, Sleep
from redis_kvpoll.errors import KVPollError, ServerRefusedError, StoreUnavailableError, printable
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.scan import Scan
from redis_kvpoll.protocol.script_call import MAX_BATCH, Call
from redis_kvpoll.protocol.settings import RENEW_SECONDS, ExpectedSettings
from redis_kvpoll.replica.replica import Replica
from redis_kvpoll.replica.shard import text_of

logger = logging.getLogger("redis_kvpoll.mirror")

ENTRIES = 1000
"""Read at once, of each shard."""
HEARTBEAT = 0.25
"""Seconds. So often the server is heard of when nothing changes, and rooms that are due are asked about."""
COALESCE_DELAY = 0.0003
"""Seconds of rest between reads while one change follows the other: waking for each costs the process that writes
them, on the same interpreter, as much as the write itself. The first after a quiet moment is read at once."""
POLL_INTERVAL = 0.01
"""Seconds between looks where a read cannot wait: in memory://."""
REJECTED_RETRY = 2.0
"""Seconds between tries while the server refuses us: somebody has to put that right by hand."""

# Seconds. As in attempts: from about 10 ms, as long as a server takes to accept again, to a quarter of a second.
_BACKOFF = EqualJitterBackoff(cap=0.25, base=0.01)


class _MustResync(Exception):  # noqa: N818 - never seen outside
    """The connection still stands, but the copy may be wrong: start afresh."""


class Follower:
    """Keeps the copies of some shards, all on one server, in a replica. Whoever takes its effects runs ``session``.

    ``expected_settings`` gives what the store holds to, to be checked on each new connection; ``limit`` (seconds) is
    how long the transport waits for a reply, and ``can_block`` whether it may wait for news; ``notify`` is called when
    there may be changes to report, without the lock; ``has_news`` when ``began`` or ``failure`` changes; ``may_end``
    says whether nobody needs this follower any more, and has then declared its shards not synced.
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
        has_news: Callable[[], object],
        may_end: Callable[[], bool],
    ) -> None:
        self.tags = tags
        self.began = False
        """Whether there was a moment when all was known."""
        self.failure: KVPollError | None = None
        """Why it could not begin; of interest only until it has."""
        self._replica = replica
        self._expected = expected_settings
        self._clustered = clustered
        self._limit = limit
        self._can_block = can_block
        self._notify = notify
        self._has_news = has_news
        self._may_end = may_end
        self._feeds = [keys.feed(tag) for tag in tags]
        self._block = str(max(1, int(min(HEARTBEAT, limit / 3) * 1000)))
        self._tries = 0
        self._complained = False
        self._times_suspected = 0
        self._checked_at = 0.0
        self._heard_at = time.monotonic()

    def session(self) -> Flow[float | None]:
        """Follow, until something goes wrong or it may end: the seconds to pause before the next session, or None.

        It must be given a new connection, and a transport that nobody else takes: where a slot is, is learned here.
        """
        self._times_suspected = self._replica.times_suspected
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
                return self._refused(ServerRefusedError(f"mirror: {printable(classify.describe_rejection(redirect))}"))
            return self._lost(redirect)
        except _MustResync as doubt:
            return self._lost(doubt)
        except (NotSent, RedisError, OSError) as error:
            if classify.classify(error) is not Failure.REJECTED or str(error).startswith("UNBLOCKED"):
                return self._lost(classify.root_cause(error))
            return self._refused(
                ServerRefusedError(f"mirror: {printable(classify.describe_rejection(classify.root_cause(error)))}")
            )
        except KVPollError as error:
            return self._refused(error)
        except Exception as error:
            # A predicate's, most likely. Whoever polls must not go on with an old copy that calls itself current.
            return self._refused(KVPollError(f"mirror: its rooms= most likely raised {printable(repr(error))}"), error)
        finally:
            if not is_over:  # else these shards may be another follower's by now
                self._replica.mark_unsynced(self.tags)

    # The session, in order

    def _check_settings(self) -> Flow[None]:
        """A server that has lost its data may meanwhile be in use with other settings."""
        expected_settings = self._expected()
        expected_settings.read((yield from self._carry(expected_settings.call())))
        self._checked_at = time.monotonic()

    def _resync(self) -> Flow[None]:
        for tag in self.tags:
            asked_at = time.monotonic()
            feed_id, *_ = yield from self._carry(self._replica.read_spec.call(self._replica.context, tag, [], [], ()))
            self._replica.start_resync(tag, feed_id, self._now(asked_at))
        if not self._replica.only_waited:
            yield from self._walk()
        for tag in self.tags:
            yield from self._read_rooms(self._replica.shards[tag].unconfirmed())
        while not (yield from self._read(block=False)):
            pass
        for tag in self.tags:
            self._replica.mark_synced(tag, self._times_suspected)
        self._notify()
        self._is_well()

    def _walk(self) -> Flow[None]:
        # A redirect ends the session, so the map of slots is the same for the whole walk.
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
            if time.monotonic() - asked_at < 2 * COALESCE_DELAY:
                yield Sleep(COALESCE_DELAY)
            more_due = False
            for tag in self.tags:
                # One batch at a time, and then on in the feed. A look may leave a room due: one that a server's lower
                # clock dates before what is known of it is not believed, and only the feed shows what has happened.
                if rooms := self._replica.due(tag, time.monotonic(), MAX_BATCH):
                    yield from self._read_rooms(rooms)
                    more_due = more_due or len(rooms) == MAX_BATCH
            self._notify()
            if time.monotonic() > self._checked_at + RENEW_SECONDS:
                yield from self._check_settings()

    def _read(self, block: bool) -> Flow[bool]:
        """Read on in each feed; whether that was all there is."""
        if block and not self._can_block:
            yield Sleep(POLL_INTERVAL)
            block = False
        shards = [self._replica.shards[tag] for tag in self.tags]
        positions = [text_of(shard.position) for shard in shards]
        wait = ["BLOCK", self._block] if block else []
        words = ["XREAD", "COUNT", str(ENTRIES), *wait, "STREAMS", *self._feeds, *positions]
        look = [["XRANGE", feed, at, at] for feed, at in zip(self._feeds, positions, strict=True)]
        asked_at = time.monotonic()
        reply, *there = yield Send(self.tags[0], words, then=look)
        if not all(there):
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
        if self._replica.times_suspected != self._times_suspected:
            raise _MustResync("the store lost a connection")
        return all_read

    def _read_rooms(self, rooms: list[int]) -> Flow[None]:
        """Read rooms as they are now."""
        for call in self._read_calls(rooms):
            asked_at = time.monotonic()
            feed_id, *reply = yield from self._carry(call)
            self._replica.snapshot(call.tag, feed_id, call.rooms, reply, self._now(asked_at))

    def _read_calls(self, rooms: list[int]) -> Iterator[Call]:
        context = self._replica.context
        by_tag: dict[str, list[int]] = {tag: [] for tag in self.tags}
        for room in rooms:
            tag = keys.tag(context.namespace, context.shards, room)
            # A key under another tag than its room's was made by hand.
            if tag in by_tag and self._replica.shards[tag].is_relevant(room):
                by_tag[tag].append(room)
        for tag, some in by_tag.items():
            for at in range(0, len(some), MAX_BATCH):
                yield self._replica.read_spec.call(context, tag, some[at : at + MAX_BATCH], [], ())

    def _carry(self, call: Call) -> Flow[Any]:
        words = call.words()
        try:
            return (yield Send(call.tag, words))
        except NoScriptError:
            words[:2] = "EVAL", call.spec.script.source
        return (yield Send(call.tag, words))

    def _now(self, asked_at: float) -> float:
        """The time for which an answer that has just come is true.

        Where this process was stopped meanwhile, the answer may be as old as the question.
        """
        self._heard_at = time.monotonic()
        return self._heard_at if self._heard_at - asked_at < 2 * HEARTBEAT else asked_at

    # How it goes

    def _is_well(self) -> None:
        if self._complained:
            logger.info("%s is current again", self._name)
        self._complained, self._tries = False, 0
        if not self.began:
            self.began, self.failure = True, None
            self._has_news()

    def _lost(self, error: BaseException) -> float:
        """What usually heals by itself. The first try comes at once if the connection was fine until now."""
        if not self._complained:
            self._complained = True
            logger.warning("%s is not current until it has read afresh: %s", self._name, printable(str(error)))
        if not self.began and time.monotonic() - self._heard_at >= self._limit:
            what = f"mirror: no answer for {self._limit:g} s (last: {printable(str(error)).rstrip('.')})"
            self._fail(StoreUnavailableError(f"{what}: check that the server is up and reachable"))
        self._tries += 1
        return 0.0 if self._tries == 1 else float(_BACKOFF.compute(self._tries))

    def _refused(self, error: KVPollError, cause: BaseException | None = None) -> float:
        """What somebody must put right."""
        if self.began and str(error) != str(self.failure):
            logger.error("%s is not current, and tries again slowly: %s", self._name, error, exc_info=cause)
        self._complained = True
        self._fail(error)
        return REJECTED_RETRY

    def _fail(self, error: KVPollError) -> None:
        self.failure = error
        self._has_news()

    @property
    def _name(self) -> str:
        what = "what waits for rooms" if self._replica.only_waited else "the mirror"
        return f"{what} of namespace {self._replica.context.namespace!r}"
