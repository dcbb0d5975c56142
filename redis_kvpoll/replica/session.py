"""One session of a follower of this folder: what each does, whatever it reads. Statistics have a follower of their own.

A session lasts as long as its connection. It checks the settings, catches up, then follows. Any error ends it, and what
was followed is not synced until the next session, over a new connection, has caught up.

Both read one stream of each shard, all in one request: XREAD waits for the next entries. Once per heartbeat, a look
right after it tells whether an entry may have been missed (see continuity.py); if so, the session ends.

To add a follower: derive from FollowerSession, and say which streams it reads and how it takes their entries, how it
catches up, how it follows, and what is not synced then.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from redis.exceptions import AskError, NoScriptError, RedisError

from redis_kvpoll.engine.classify import NotSent, root_cause
from redis_kvpoll.engine.effects import FollowRedirect, Send, Sleep
from redis_kvpoll.errors import KVPollError, printable
from redis_kvpoll.protocol.feed_ids import text_of
from redis_kvpoll.protocol.script_call import Call, CallContext
from redis_kvpoll.protocol.settings import RENEW_SECONDS
from redis_kvpoll.replica.continuity import Continuity
from redis_kvpoll.replica.health import FollowerHealth, refusal
from redis_kvpoll.replica.requests import FollowerFlow, Host, OrphanedError

ENTRIES = 1000
"""Entries of each shard in one read."""
COALESCE_DELAY = 0.0003
"""Seconds between reads while changes follow closely. To wake for each would cost a writer under the same GIL as much
as the write itself. The first change after a quiet moment is read at once."""
POLL_INTERVAL = 0.01
"""Seconds between reads where a read cannot block: in memory://."""

T = TypeVar("T")


class MustResyncError(Exception):
    """The connection is open, but a change may have been missed. Never seen outside."""


class Pace(NamedTuple):
    """How often a follower reads while nothing changes, and what its replies count for. In seconds."""

    heartbeat: float
    """A read waits for so long on the server."""
    stale_after: float
    """A reply that is later than this counts for nothing once the session follows."""
    precision: float
    """A reply may be older by this than it is taken for."""


class Followed(Protocol):
    """What a follower keeps current."""

    context: CallContext
    resyncs_wanted: int
    """Grows when a resync is wanted: it ends the session."""


class FollowerSession(ABC):
    """Follows some shards, all on one server, for ``host``. A driver runs ``session`` again and again.

    ``operation`` begins its errors, ``what`` its lines in the log; ``key_of`` names the stream of a shard. ``limit``
    (seconds) is how long the transport waits for a reply, and ``can_block`` whether a read may wait on the server.
    """

    _stream = "the feed"
    """What it reads, in its errors."""
    _why_resync = "the store has found another server"

    def __init__(
        self,
        operation: str,
        what: str,
        followed: Followed,
        tags: Sequence[str],
        key_of: Callable[[str], str],
        host: Host,
        limit: float,
        can_block: bool,
        pace: Pace,
    ) -> None:
        context = followed.context
        self.tags = tags
        self.host = host
        self.health = FollowerHealth(f"{what} of namespace {context.namespace!r}", limit, self._progressed, operation)
        self._operation = operation
        self._prefix = f"{operation}: "
        self._streams = list(map(key_of, tags))
        self._continuity = Continuity(self._streams, int(context.feed_length), ENTRIES)
        self._can_block = can_block
        self._pace = pace
        self._block_ms = max(1, int(min(pace.heartbeat, limit / 3) * 1000))
        self._checked_at = 0.0
        self._follows = False
        """Whether this session has caught up."""
        self._followed = followed
        self._resyncs_wanted = 0
        """Of what is followed, when this session began: its connection is new from there on."""

    @abstractmethod
    def _catch_up(self) -> FollowerFlow[None]:
        """Read what may have been missed, until all is current."""

    @abstractmethod
    def _follow(self) -> FollowerFlow[None]:
        """Follow until nobody needs it."""

    @abstractmethod
    def _positions(self) -> Sequence[int]:
        """Up to which entry each stream was read."""

    @abstractmethod
    def _take(self, found: Sequence[Sequence[Any]], is_proved: bool, now: float) -> None:
        """Take the entries of each stream, as of ``now``; ``is_proved``: none before them was missed."""

    @abstractmethod
    def _mark_unsynced(self) -> None:
        """From now on, a change may be missed."""

    def session(self) -> FollowerFlow[float | None]:
        """See AnyFollower."""
        self._follows = False
        self._resyncs_wanted = self._followed.resyncs_wanted
        self.health.session_begins()
        is_over = False
        try:
            yield from self._check_settings()
            yield from self._catch_up()
            self._follows = True
            yield from self._follow()
            is_over = True
            return None
        except OrphanedError:
            return None
        except AskError as redirect:
            self._mark_unsynced()
            if not (yield FollowRedirect(redirect)):
                return self.health.rejected(refusal(redirect, self._prefix))
            return self.health.lost(redirect)
        except (MustResyncError, KVPollError, NotSent, RedisError, OSError) as error:
            if (wrong := self.health.to_correct(error, self._prefix)) is not None:
                return self.health.rejected(wrong)
            return self.health.lost(root_cause(error))
        except Exception as error:
            # Most likely raised by the caller's function. An old copy must not stay marked as synced.
            what = f"{self._prefix}its rooms= most likely raised {printable(repr(error))}"
            return self.health.rejected(KVPollError(what), error)
        finally:
            if not is_over:  # else another follower may have these shards by now
                self._mark_unsynced()

    def _progressed(self) -> None:
        with contextlib.suppress(OrphanedError):
            self.host.progressed()

    def _check_settings(self) -> FollowerFlow[None]:
        """Check the settings: a server that has lost its data may have other ones by now."""
        expected = self.host.expected_settings
        if expected.read_only:
            reply = yield Send(expected.namespace, expected.reading())
            expected.check_exists(self._operation, reply)
        else:
            reply = yield from self._send_script(expected.call())
        expected.read(reply)
        self._checked_at = time.monotonic()

    def _read_on(self, block: bool, then: Sequence[list[str]] = ()) -> FollowerFlow[tuple[bool, list[Any]]]:
        """Read on in each stream, and send what is to be sent ``then`` in the same request.

        Returns whether that was the end of all streams, and the replies to what was sent then.
        """
        if block and not self._can_block:
            yield Sleep(POLL_INTERVAL)
            block = False
        asked_at = time.monotonic()
        looks = not self._follows or self._continuity.due(asked_at)
        block_ms = self._continuity.wait_ms(self._block_ms, asked_at)
        wait = ["BLOCK", str(block_ms)] if block else []
        ids = map(text_of, self._positions())
        words = ["XREAD", "COUNT", str(ENTRIES), *wait, "STREAMS", *self._streams, *ids]
        look = self._continuity.commands() if looks else []
        answer = yield Send(self.tags[0], words, then=[*look, *then])
        reply, *replies = answer if look or then else [answer]
        if looks and not self._continuity.holds(replies[: len(look)]):
            raise MustResyncError(f"{self._stream} no longer reaches back to where it was read")
        by_key = dict(reply.items() if isinstance(reply, dict) else reply or ())
        now = self._now(asked_at, block_ms / 1000 if block and not by_key else 0.0)
        found = [by_key.get(stream.encode(), ()) for stream in self._streams]
        self._take(found, looks, now)
        is_end = all(len(entries) < ENTRIES for entries in found)
        self._continuity.read(self._positions(), sum(map(len, found)), looks, is_end, asked_at)
        return is_end, replies[len(look) :]

    def _report(self) -> None:
        """Let the host report what was read; end the session if a resync is wanted since it began."""
        self.host.notify()
        if self._followed.resyncs_wanted != self._resyncs_wanted:
            raise MustResyncError(self._why_resync)

    def _paced(self, read: FollowerFlow[T]) -> FollowerFlow[T]:
        """Read, not more often than is worth while; check the settings, if that is due."""
        asked_at = time.monotonic()
        result = yield from read
        if time.monotonic() - asked_at < 2 * COALESCE_DELAY:
            yield Sleep(COALESCE_DELAY)
        if time.monotonic() > self._checked_at + RENEW_SECONDS:
            yield from self._check_settings()
        return result

    def _send_script(self, call: Call) -> FollowerFlow[Any]:
        words = call.words()
        try:
            return (yield Send(call.tag, words))
        except NoScriptError:
            words[:2] = "EVAL", call.spec.script.source
        return (yield Send(call.tag, words))

    def _now(self, asked_at: float, waited: float = 0.0) -> float:
        """Return the time as of which a reply that has just arrived is true.

        ``waited`` is how long the server has waited before it replied that nothing is new. If this process was stopped
        in between, the reply may be as old as that moment; if the server was, as old as the request.
        """
        now = time.monotonic()
        self.health.answered(now)
        if self._follows and now - asked_at > self._pace.stale_after:
            # The server stood still, or this process. Another server may have taken over in the meantime, so this reply
            # counts for nothing, and a new connection asks which is the primary now.
            raise MustResyncError(f"no answer for {self._pace.stale_after:g} s")
        return now if now - asked_at - waited < self._pace.precision else asked_at
