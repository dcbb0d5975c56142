"""The attempts of one call: retries with backoff, scripts missing on the server, redirects, and the deadline.

A call that is not repeatable is sent again only if the server has certainly not executed it.
"""

from __future__ import annotations

import math
import time
from typing import Any, Protocol

from redis.backoff import EqualJitterBackoff
from redis.exceptions import AskError, MovedError, NoScriptError, RedisError

from redis_kvpoll.engine import classify
from redis_kvpoll.engine.classify import Failure, NotSent
from redis_kvpoll.engine.effects import Flow, FollowRedirect, Send, Sleep
from redis_kvpoll.errors import KVPollError, OutcomeUnknownError, ServerRefusedError, StoreUnavailableError, printable
from redis_kvpoll.protocol.script_call import Call
from redis_kvpoll.protocol.scripts import Script

# Seconds. The first pause is about 10 ms, the time that a server on the same host needs to accept connections after a
# restart; the longest is 0.25 s, so that 1,000 waiting clients do not overload a server after a restart.
_BACKOFF = EqualJitterBackoff(cap=0.25, base=0.01)
# Redirects followed without a pause. One is usual (a slot has moved); more come only from nodes that disagree, which
# need time to converge.
_FREE_REDIRECTS = 4

MAY_HAVE_RUN = "it may have been executed or not; read the room before you repeat the call"


class CallHost(Protocol):
    """The store of an attempt, as far as this module needs it. Recovery implements it."""

    deadline: float
    losses: int
    slot_map_version: int

    def server_may_have_changed(self) -> None: ...
    def shard_moved(self, tag: str) -> bool: ...
    def prepare(self, tag: str, attempts: Attempts) -> Flow[None]: ...


class CallFailed(Exception):  # noqa: N818 - internal signal of Attempts to the executor
    """A call ended without a reply. The executor adds the operation's name and raises ``kind``.

    ``until`` is finite if only time ran out: a call with a later deadline may try again.
    """

    def __init__(self, kind: type[KVPollError], what: str, until: float = math.inf) -> None:
        super().__init__(what)
        self.kind = kind
        self.until = until

    def named(self, name: str, server: str) -> KVPollError:
        """Return the exception for the caller."""
        error = self.kind(printable(f"{name}: {self}" + (f"; server: {server}" if server else "")))
        error.__cause__ = self.__cause__
        return error


class Attempts:
    """The attempts of one script call or command, within one deadline."""

    def __init__(self, host: CallHost, repeatable: bool, give_up_at: float) -> None:
        self._host = host
        self._repeatable = repeatable
        self._tries = 0
        self._give_up_at = give_up_at
        self._left = host.deadline
        self._telling: BaseException | None = None
        self.losses = host.losses
        """The store's count of lost connections at the last send."""

    def send_script(self, call: Call, auxiliary: bool = False, first_error: Exception | None = None) -> Flow[Any]:
        """Send a script call by its digest, or with its source if the server does not have the script.

        ``first_error`` is the error of a first attempt that was made without this object.
        """
        return self.send_until_reply(call.tag, call.words(), auxiliary, call.spec.script, first_error)

    def send_command(self, tag: str, words: list[str]) -> Flow[Any]:
        """Send a read-only command."""
        return self.send_until_reply(tag, words, auxiliary=True)

    def send_until_reply(
        self,
        tag: str,
        words: list[str],
        auxiliary: bool,
        script: Script | None = None,
        first_error: Exception | None = None,
    ) -> Flow[Any]:
        """Send until there is a reply, a permanent error, or no time left.

        ``auxiliary`` marks a command that prepares a call: it may always be repeated, and needs no preparation itself.
        """
        repeatable = auxiliary or self._repeatable
        asking = None
        while True:
            if first_error is None:
                self.losses = self._host.losses
                try:
                    return (yield Send(tag, words, self._timeout(), not repeatable, asking))
                except (NotSent, RedisError, OSError) as caught:
                    first_error = caught
            # Outside the except block, so that the next attempt's error does not get this one as its context.
            error, first_error, asking = first_error, None, None
            if isinstance(error, NoScriptError) and script:
                # EVAL takes the same route, so it loads the script on the one node that lacks it.
                words[:2] = "EVAL", script.source
                script = None
            elif isinstance(error, AskError):
                asking = yield from self._follow_redirect(error)
                if asking is None and self._host.shard_moved(tag) and not auxiliary:
                    yield from self._host.prepare(tag, self)
            else:
                yield from self._back_off_or_raise(error, repeatable)
                if not auxiliary:
                    yield from self._host.prepare(tag, self)

    def _back_off_or_raise(self, error: Exception, repeatable: bool) -> Flow[None]:
        """Wait before the next attempt, or raise CallFailed."""
        failure, cause = classify.classify(error, self._tries), classify.root_cause(error)
        if failure is Failure.REJECTED:
            raise CallFailed(ServerRefusedError, classify.describe_rejection(cause)) from cause
        if classify.server_may_have_changed(error):
            self._host.server_may_have_changed()
        if failure is Failure.UNKNOWN and not repeatable:
            what = f"sent, but the reply was lost ({cause}): {MAY_HAVE_RUN}"
            raise CallFailed(OutcomeUnknownError, what) from cause
        yield from self._back_off(cause)

    def _follow_redirect(self, error: AskError) -> Flow[tuple[str, int] | None]:
        """Follow a cluster's redirect; pause after _FREE_REDIRECTS. Returns the node of an ASK, None for MOVED."""
        self._host.slot_map_version += 1
        if not (yield FollowRedirect(error)):
            raise CallFailed(ServerRefusedError, classify.describe_rejection(error)) from error
        if self._tries < _FREE_REDIRECTS:
            self._tries += 1
        else:
            yield from self._back_off(error)
        return None if isinstance(error, MovedError) else (error.host, error.port)

    def _back_off(self, cause: BaseException) -> Flow[None]:
        self._tries += 1
        # The last try of a deadline has little time, and its timeout says nothing.
        if not classify.is_timeout(cause) or self._left > 0.1 * self._host.deadline:
            self._telling = cause
        seconds = _BACKOFF.compute(self._tries)
        until = time.monotonic() + seconds
        if until >= self._give_up_at:
            tries = "1 try" if self._tries == 1 else f"{self._tries} tries"
            what = classify.describe_delay(self._telling or cause, f"{self._host.deadline:g} s ({tries}")
            raise CallFailed(StoreUnavailableError, what, until) from cause
        yield Sleep(seconds)

    def _timeout(self) -> float | None:
        """Return the timeout of the next attempt; None, the connection's own, early in the deadline.

        A different timeout needs a separate connection, so the usual case avoids it.
        """
        left = self._left = self._give_up_at - time.monotonic()
        return None if left > 0.9 * self._host.deadline else max(0.001, left)
