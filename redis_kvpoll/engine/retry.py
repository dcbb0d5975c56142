"""The attempts of one call: retries with backoff, scripts missing on the server, redirects, and the deadline.

A call that is not repeatable is sent again only if the server has certainly not executed it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import AskError, MovedError, NoScriptError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from redis_kvpoll.engine import classify
from redis_kvpoll.engine.backoff import Backoff
from redis_kvpoll.engine.classify import Failure, NotSent, ServerChanged
from redis_kvpoll.engine.effects import Flow, FollowRedirect, Send, Sleep
from redis_kvpoll.engine.session import Session
from redis_kvpoll.errors import KVPollError, OutcomeUnknownError, ServerRefusedError, StoreUnavailableError, printable
from redis_kvpoll.protocol.script_call import Call
from redis_kvpoll.protocol.scripts import Script

_BACKOFF = Backoff()
# Redirects, and changes of the server, that a call follows without a pause. One is usual (a slot has moved); more come
# only from nodes that disagree, which need time to converge.
_FREE_REDIRECTS = 4

_READ = "read the room before you repeat the call"
MAY_HAVE_RUN = f"it may have been executed or not; {_READ}"


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
        safe = "; the call is safe to retry" if self.kind is StoreUnavailableError else ""
        error = self.kind(printable(f"{name}: {self}{safe}" + (f"; server: {server}" if server else "")))
        error.__cause__ = self.__cause__
        return error


def describe_queued(session: Session, tag: str) -> str:
    """Return why a call was in no batch when its deadline passed, with what has delayed the calls before it."""
    at, what = session.delays.get(tag, (-math.inf, ""))
    is_recent = at > time.monotonic() - session.deadline
    return what if is_recent else f"no answer within {_queued(session)})"


def _queued(session: Session) -> str:
    return f"{session.deadline:g} s (not sent: it was queued all the time"


def after_some(failure: Exception) -> CallFailed:
    """Return the failure of a call that was executed for some rooms, and must not be executed for them again."""
    if isinstance(failure, CallFailed) and failure.kind is OutcomeUnknownError:
        return failure
    what = f"executed for some rooms, whose replies are dropped; for the others: {failure}; {_READ}"
    unknown = CallFailed(OutcomeUnknownError, what)
    unknown.__cause__ = failure.__cause__ if isinstance(failure, CallFailed) else failure
    return unknown


class Attempts:
    """The attempts of one call within one deadline, with those of the commands that must precede it."""

    def __init__(self, session: Session, give_up_at: float) -> None:
        self._session = session
        self._tag = ""
        self._failures = 0
        """Each made the call pause."""
        self._free_redirects = 0
        self._give_up_at = give_up_at
        self._left = session.deadline
        self.is_repeated = False
        """Whether an attempt may have been executed, without a reply."""
        self._telling: BaseException | None = None
        """The last error that says what is wrong."""

    def send_script(self, call: Call, server: bytes | None, error: Exception | None = None) -> Flow[Any]:
        """Send a script call that may be repeated. ``server`` as in ``Send``, ``error`` as in ``send``."""
        return self.send(Send(call.tag, call.words(), server=server), True, call.spec.script, error)

    def ask_settings(self, error: Exception | None = None) -> Flow[Any]:
        """Return the namespace's settings, which a store that writes creates or renews. ``error`` as in ``send``."""
        expected = self._session.expected_settings
        if expected.read_only:
            return self.send(Send(expected.namespace, expected.reading()), error=error)
        return self.send_script(expected.call(), None, error)

    def send(
        self,
        send: Send,
        repeatable: bool = True,
        script: Script | None = None,
        error: Exception | None = None,
        words_again: Callable[[], list[str] | None] | None = None,
    ) -> Flow[Any]:
        """Send until there is a reply. A script that the server does not have is sent with its source.

        ``error`` is that of a first attempt that was made without this object. ``words_again`` returns the words of a
        further attempt, or None if nobody waits for the reply any more.

        Raises:
            ServerChanged: the connection leads to another server than ``send.server``; nothing was executed.
            CallFailed: a permanent error, or no time is left.
        """
        self._tag, server = send.tag, send.server
        while True:
            if error is None:
                send.server, send.timeout = server, self._timeout()
                try:
                    return (yield send)
                except (NotSent, RedisError, OSError) as caught:
                    error = caught
            # Outside the except block, so that the next attempt's error does not get this one as its context.
            failed, error, send.asking = error, None, None
            if isinstance(failed, ServerChanged):
                raise failed
            if isinstance(failed, NoScriptError) and script and send.words[0] != "EVAL":
                # EVAL takes the same route, so it loads the script on the one node that lacks it.
                send.words = ["EVAL", script.source, *send.words[2:]]
            elif isinstance(failed, AskError):
                send.asking = yield from self._follow_redirect(failed)
            else:
                yield from self._back_off_or_raise(failed, repeatable)
                if words_again is not None:
                    if (words := words_again()) is None:
                        raise CallFailed(StoreUnavailableError, "nobody waits for the reply any more")
                    send.words = words

    def server_changed(self, error: ServerChanged) -> Flow[None]:
        """Pause before the next attempt if the server has changed several times."""
        self._session.slot_map_version += 1
        yield from self._pause_if_repeated(RedisConnectionError(str(error)))

    def _back_off_or_raise(self, error: Exception, repeatable: bool) -> Flow[None]:
        """Wait before the next attempt, or raise CallFailed."""
        failure, cause = classify.classify(error, self._failures), classify.root_cause(error)
        if failure is Failure.REJECTED:
            raise CallFailed(ServerRefusedError, classify.describe_rejection(cause)) from cause
        if classify.ends_connection(error):
            self._session.slot_map_version += 1
        self.is_repeated = self.is_repeated or failure is Failure.UNKNOWN
        if failure is Failure.UNKNOWN and not repeatable:
            what = f"sent, but the reply was lost ({cause}): {MAY_HAVE_RUN}"
            raise CallFailed(OutcomeUnknownError, what) from cause
        yield from self._back_off(cause)

    def _follow_redirect(self, error: AskError) -> Flow[tuple[str, int] | None]:
        """Follow a cluster's redirect; pause after _FREE_REDIRECTS. Returns the node of an ASK, None for MOVED."""
        is_moved = isinstance(error, MovedError)
        self._session.slot_map_version += is_moved  # an ASK changes the route of one call, and not the map
        if not (yield FollowRedirect(error)):
            raise CallFailed(ServerRefusedError, classify.describe_rejection(error)) from error
        yield from self._pause_if_repeated(error)
        return None if is_moved else (error.host, error.port)

    def _pause_if_repeated(self, error: Exception) -> Flow[None]:
        if self._free_redirects < _FREE_REDIRECTS:
            self._free_redirects += 1
        else:
            yield from self._back_off(error)

    def _back_off(self, cause: BaseException) -> Flow[None]:
        self._failures += 1
        # The last try of a deadline has little time, and its timeout says nothing.
        if not classify.is_timeout(cause) or self._left > 0.1 * self._session.deadline:
            self._telling = cause
        what = classify.describe_delay(self._telling or cause, _queued(self._session))
        self._session.delays[self._tag] = time.monotonic(), what
        seconds = _BACKOFF.compute(self._failures)
        until = time.monotonic() + seconds
        if until >= self._give_up_at:
            count = self._failures + self._free_redirects
            tries = "1 try" if count == 1 else f"{count} tries"
            what = classify.describe_delay(self._telling or cause, f"{self._session.deadline:g} s ({tries}")
            raise CallFailed(StoreUnavailableError, what, until) from cause
        yield Sleep(seconds)

    def _timeout(self) -> float | None:
        """Return the timeout of the next attempt; None, the connection's own, early in the deadline."""
        left = self._left = self._give_up_at - time.monotonic()
        return None if left > 0.9 * self._session.deadline else max(0.001, left)
