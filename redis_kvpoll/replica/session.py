"""One session of a follower of this folder: what each does, whatever it reads. Statistics have a follower of their own.

A session lasts as long as its connection. It checks the settings, catches up, then follows. Any error ends it, and what
was followed is not synced until the next session, over a new connection, has caught up.

To add a follower: derive from FollowerSession, and say how it catches up, how it follows, and what is not synced then.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import AskError, NoScriptError, RedisError

from redis_kvpoll.engine import classify
from redis_kvpoll.engine.classify import Failure, NotSent
from redis_kvpoll.engine.effects import FollowRedirect, Send
from redis_kvpoll.errors import KVPollError, ServerRefusedError, StoreUnavailableError, printable
from redis_kvpoll.protocol.script_call import Call
from redis_kvpoll.replica.health import FollowerHealth
from redis_kvpoll.replica.requests import FollowerFlow, Host, OrphanedError


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


class FollowerSession(ABC):
    """Follows some shards, all on one server, for ``host``. A driver runs ``session`` again and again.

    ``operation`` begins its errors. ``limit`` (seconds) is how long the transport waits for a reply.
    """

    def __init__(self, operation: str, name: str, tags: Sequence[str], host: Host, limit: float, pace: Pace) -> None:
        self.tags = tags
        self.host = host
        self.health = FollowerHealth(name, limit, self._progressed, operation)
        self._operation = operation
        self._pace = pace
        self._block_ms = max(1, int(min(pace.heartbeat, limit / 3) * 1000))
        self._checked_at = 0.0
        self._follows = False
        """Whether this session has caught up."""

    @abstractmethod
    def _begin(self) -> None:
        """A session begins: its connection is new from here on."""

    @abstractmethod
    def _catch_up(self) -> FollowerFlow[None]:
        """Read what may have been missed, until all is current."""

    @abstractmethod
    def _follow(self) -> FollowerFlow[None]:
        """Follow until nobody needs it."""

    @abstractmethod
    def _mark_unsynced(self) -> None:
        """From now on, a change may be missed."""

    def session(self) -> FollowerFlow[float | None]:
        """Follow until an error; return the seconds to wait before the next session, or None when it may end.

        It needs a new connection and its own transport, whose slot map it updates.
        """
        self._follows = False
        self._begin()
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
                return self.health.rejected(self._refused(redirect))
            return self.health.lost(redirect)
        except (MustResyncError, StoreUnavailableError) as error:
            return self.health.lost(error)
        except (NotSent, RedisError, OSError) as error:
            failure = classify.classify(error, self.health.failures_in_a_row)
            if failure is not Failure.REJECTED or str(error).startswith("UNBLOCKED"):
                return self.health.lost(classify.root_cause(error))
            return self.health.rejected(self._refused(classify.root_cause(error)))
        except KVPollError as error:
            return self.health.rejected(error)
        except Exception as error:
            # Most likely raised by the caller's function. An old copy must not stay marked as synced.
            what = f"{self._operation}: its rooms= most likely raised {printable(repr(error))}"
            return self.health.rejected(KVPollError(what), error)
        finally:
            if not is_over:  # else another follower may have these shards by now
                self._mark_unsynced()

    def _refused(self, error: BaseException) -> KVPollError:
        return ServerRefusedError(f"{self._operation}: {printable(classify.describe_rejection(error))}")

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
