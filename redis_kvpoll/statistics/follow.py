"""The follower of statistics: it reads the table once, slowly, and then the feed once a second.

A session lasts as long as its connection:

1. Read the settings, which say how many shards there are and whether there is a feed. It never writes.
2. Of each shard that is not known yet: find the end of the feed (or a place before it, to learn what happened lately),
   then walk: a page of SCAN, its rooms, and the feed up to the moment of that read. So each fact is newer than those
   before it. Pauses keep the walk to its share of the server's time. All feeds are read on meanwhile.
3. Once a second, read each feed on from the entry that was read last, which must still be there; if it is not, changes
   may be missing, and the shard is walked anew (but not if the feed's TTL has ended, and there was no room). No read
   blocks on the server. Then read the rooms whose TTL has ended.

After a lost connection, the next session goes on at the same entries. Another server that has them has what was read.
A walk begins again, but what it has met stays known, and changes of that count meanwhile.

Where no entry was read, since the feed is empty, a loss of data shows nowhere: rooms that were lost then stay until
their TTL ends.

Invariant: each fact is applied in the order of the feed's ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import AskError, NoScriptError, RedisError, TryAgainError

from redis_kvpoll.engine.classify import NotSent, root_cause
from redis_kvpoll.engine.effects import FollowRedirect, Send, Sleep
from redis_kvpoll.errors import KVPollError, StoreUnavailableError, printable
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.scan import Scan
from redis_kvpoll.protocol.script_call import CallContext, Identity
from redis_kvpoll.protocol.script_specs import SNAPSHOT_FIELDS
from redis_kvpoll.protocol.settings import RENEW_SECONDS, ExpectedSettings
from redis_kvpoll.replica.health import FollowerHealth, refusal
from redis_kvpoll.replica.requests import FollowerFlow
from redis_kvpoll.statistics.aggregates import Aggregates
from redis_kvpoll.statistics.asking import ask
from redis_kvpoll.statistics.beside import Beside
from redis_kvpoll.statistics.feed_positions import Feeds
from redis_kvpoll.statistics.position import START, MissedError

INTERVAL = 1.0
"""Seconds between readings of the feed."""
SCAN_INTERVAL = 60.0
"""Seconds between walks of a table without a feed."""
PAGE = 250
"""Keys of one page of a walk at a share of a tenth; a page blocks the server, so a larger share has larger ones."""
MAX_PAGE = 1000
NAP = 0.1
"""Seconds of a sleep after which a driver may end the session."""
LONGEST_PAUSE = 0.05
"""Seconds after a page. The time that a page took is the server's and the network's; with a slow network, this bounds
how long the walk takes."""


class StatisticsFollower:
    """Keeps the aggregates of one namespace. A driver runs ``session`` again and again, each over a new connection.

    ``pace`` is the share of the server's time that a walk may take, and for how many seconds before the start the feed
    is read; ``is_wanted`` is False once nobody reads the aggregates, and ``progressed`` is called when they have been
    synced for the first time or an error has come.
    """

    def __init__(
        self,
        aggregates: Aggregates,
        expected: ExpectedSettings,
        identity: Identity,
        transport: Any,
        pace: tuple[float, float],
        is_wanted: Callable[[], bool],
        progressed: Callable[[], object],
    ) -> None:
        self.aggregates = aggregates
        named = f"the follower of statistics of namespace {aggregates.namespace!r}"
        self.health = FollowerHealth(named, transport.limit, progressed, "statistics")
        self._expected = expected
        self._identity = identity
        self._context: CallContext | None = None
        self._clustered = transport.clustered
        self._share, self._lookback = pace
        self._is_wanted = is_wanted
        self._beside = Beside(aggregates)
        self._feeds = Feeds(aggregates, self._beside, self.health)
        self._missed: set[str] = set()
        """The shards of which changes were missed, until they are walked: nobody reads on from their positions."""

    def session(self) -> FollowerFlow[float | None]:
        """See AnyFollower."""
        self.health.session_begins()
        try:
            yield from self._check_settings()
            self.aggregates.is_connected = True
            yield from self._follow()
            return None
        except AskError as redirect:
            if not (yield FollowRedirect(redirect)):
                return self._rejected(refusal(redirect))
            return self._lost(redirect)
        except (KVPollError, NotSent, RedisError, OSError) as error:
            wrong = self.health.to_correct(error)
            return self._lost(root_cause(error)) if wrong is None else self._rejected(wrong)
        finally:
            self.aggregates.is_connected = False

    def _lost(self, error: BaseException) -> float:
        pause = self.health.lost(error)
        self.aggregates.error = str(self.health.failure or printable(str(error)))
        return max(pause, NAP)

    def _rejected(self, error: KVPollError) -> float:
        self.aggregates.error = str(error)
        return self.health.rejected(error)

    # The session, in order

    def _check_settings(self) -> FollowerFlow[None]:
        """Adopt the namespace's settings, or check that they are the ones that were adopted."""
        reply = yield from ask(self._expected.namespace, self._expected.reading())
        if self._context is None:
            if not any(reply) and not self._expected.does_without:
                what = f"namespace {self._expected.namespace!r} does not exist yet: nothing has been written to it"
                raise StoreUnavailableError(what)
            settings = self._expected.read(reply)
            self._expected = self._expected.adopt(settings) if any(reply) else self._expected
            self._context = self._expected.context(settings, self._identity)
            with self.aggregates.lock:
                self.aggregates.begin(settings)
        elif any(reply):  # else all data was lost, and is written again with the same settings, by those who have them
            self._expected.read(reply)

    def _follow(self) -> FollowerFlow[None]:
        checked_at = time.monotonic()
        while self._is_wanted():
            began = time.monotonic()
            yield from self._round()
            if self.aggregates.is_walked:
                yield from self._sleep(began + (INTERVAL if self.aggregates.has_feed else SCAN_INTERVAL))
            if time.monotonic() > checked_at + RENEW_SECONDS:
                yield from self._check_settings()
                checked_at = time.monotonic()

    def _sleep(self, until: float) -> FollowerFlow[None]:
        while self._is_wanted() and (left := until - time.monotonic()) > 0:
            yield Sleep(min(NAP, left))

    def _round(self) -> FollowerFlow[None]:
        """Read everything once; what is found to be unknown, in the next round."""
        tags = list(self.aggregates.shards)
        yield from self._beside.read_time(tags[0])
        if self.aggregates.has_feed:
            yield from self._catch_up(tags)
        else:
            with self.aggregates.lock:
                for shard in self.aggregates.shards.values():
                    shard.begin_walk(stays_known=True)
            yield from self._walk(tags)
        for tag in tags:
            yield from self._beside.read(tag)
        yield from self._beside.read_owners(tags)
        now = time.monotonic()
        with self.aggregates.lock:
            self.aggregates.end_round(now)
        if self.aggregates.is_walked:
            self.health.succeeded()

    def _catch_up(self, tags: list[str]) -> FollowerFlow[None]:
        if unwalked := [tag for tag in tags if not self.aggregates.shards[tag].is_walked]:
            yield from self._read_all(unwalked)
        for tag in tags:
            yield from self._unless_missed(tag, self._feeds.read(tag))
            yield from self._unless_missed(tag, self._read_due(tag))

    def _unless_missed(self, tag: str, read: FollowerFlow[None]) -> FollowerFlow[None]:
        """Read from a shard of which nothing was missed. If something is, it is walked in the next round.

        Other shards are read on, so that all that one event has cost changes are walked together.
        """
        if tag in self._missed:
            return
        try:
            yield from read
        except MissedError:
            with self.aggregates.lock:
                self.aggregates.totals.gaps += not self._missed
                self.aggregates.shards[tag].is_walked = False
            self._missed.add(tag)

    # A walk

    def _read_all(self, tags: list[str]) -> FollowerFlow[None]:
        """Read all rooms of some shards, each after its feed; of one whose walk was cut short, go on in its feed."""
        with self.aggregates.lock:
            self.aggregates.totals.resyncs += not self._missed.isdisjoint(tags)
        for tag in tags:
            is_first = tag not in self._feeds.positions
            if is_first or tag in self._missed:
                yield from self._feeds.find_position(tag, self._lookback if is_first else 0.0)
                self._missed.discard(tag)
                with self.aggregates.lock:
                    self.aggregates.shards[tag].begin_walk()
            yield from self._unless_missed(tag, self._feeds.read(tag))
        yield from self._walk(tags)

    def _walk(self, tags: list[str]) -> FollowerFlow[None]:
        """Read all rooms of some shards, with pauses, and all feeds beside them, lest one turns over unread."""
        shards, context = self.aggregates.shards, self._known_context
        for tag in tags:
            shards[tag].walked = 0
        # A redirect ends the session, so the slot map is the same for the whole scan.
        only = tags if self._clustered or len(tags) == 1 else None
        page = min(MAX_PAGE, max(1, round(PAGE * self._share * 10)))
        scan = Scan(self._clustered, only, page, is_distinct=False)
        feeds_read_at = time.monotonic()
        while (request := scan.request(context, 0)) is not None and not self._missed.issuperset(tags):
            began = time.monotonic()
            by_tag: dict[str, list[int]] = {tag: [] for tag in tags}
            for room in scan.page((yield Send(*request)), 0):
                tag = keys.tag(context.namespace, context.shards, room)
                if tag in by_tag:
                    by_tag[tag].append(room)
            for tag, rooms in by_tag.items():
                if rooms:
                    yield from self._unless_missed(tag, self._read_rooms(tag, rooms))
                    shards[tag].walked += len(rooms)
            self.aggregates.error = None  # of the session before: a walk may take minutes
            if began >= feeds_read_at + INTERVAL:
                for tag in self._feeds.positions:
                    yield from self._unless_missed(tag, self._feeds.read(tag))
                feeds_read_at = time.monotonic()
            if not self._is_wanted():
                return
            yield Sleep(min((time.monotonic() - began) * (1 / self._share - 1), LONGEST_PAUSE))
        with self.aggregates.lock:
            for tag in set(tags) - self._missed:
                shards[tag].end_walk()

    # Reads

    @property
    def _known_context(self) -> CallContext:
        assert self._context is not None  # noqa: S101 - _check_settings set it
        return self._context

    def _read_rooms(self, tag: str, rooms: list[int]) -> FollowerFlow[None]:
        """Read rooms as they are, after the feed up to that moment."""
        feed_id, *reply = yield from self._send_script(tag, rooms)
        now = time.monotonic()
        if self.aggregates.has_feed and feed_id != START:
            yield from self._feeds.read(tag, feed_id)
        with self.aggregates.lock:
            self.aggregates.shards[tag].read(rooms, reply, self.aggregates.now_ms(now))

    def _read_due(self, tag: str) -> FollowerFlow[None]:
        """Read the rooms whose TTL has ended; a live one has got another."""
        shard, rooms = self.aggregates.shards[tag], [0]
        while rooms:
            with self.aggregates.lock:
                rooms = shard.rooms.due(self.aggregates.now_ms(time.monotonic()), PAGE)
            if rooms:
                try:
                    yield from self._read_rooms(tag, rooms)
                except TryAgainError:
                    return  # their slot is being moved, and is on two nodes: they are due again

    def _send_script(self, tag: str, rooms: list[int]) -> FollowerFlow[Any]:
        call = SNAPSHOT_FIELDS.call(self._known_context, tag, rooms, [], ())
        words = call.words()
        try:
            return (yield from ask(tag, words))
        except NoScriptError:
            words[:2] = "EVAL", call.spec.script.source
        return (yield from ask(tag, words))
