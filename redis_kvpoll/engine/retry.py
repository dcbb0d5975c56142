"""One call on its way to the server: retries, scripts the server forgot, redirects, and the deadline."""

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

# Seconds. The first pause is about 10 ms, as long as a server takes to accept again after a restart on the same
# host; a quarter of a second at most, so that 1,000 waiting clients do not hammer a server that comes back.
_BACKOFF = EqualJitterBackoff(cap=0.25, base=0.01)
# Redirects followed at once. One is usual (a slot has moved); more come only from nodes that disagree, and those
# need a moment.
_FREE_REDIRECTS = 4


class CallHost(Protocol):
    """Where trips start from: what one needs to know of its store."""

    deadline: float
    losses: int
    slot_map_version: int

    @property
    def namespace(self) -> str: ...
    def server_may_have_changed(self) -> None: ...
    def shard_moved(self, tag: str) -> bool: ...
    def prepare(self, tag: str, attempts: Attempts) -> Flow[None]: ...


class CallFailed(Exception):  # noqa: N818 - between a attempts and its store, never seen outside
    """A attempts ended without a reply. The store names the operation and raises ``kind``.

    Who has a deadline after ``until`` may try again; for time was all that was short.
    """

    def __init__(self, kind: type[KVPollError], what: str, until: float = math.inf) -> None:
        super().__init__(what)
        self.kind = kind
        self.until = until

    def named(self, name: str) -> KVPollError:
        """What the caller gets to see."""
        error = self.kind(f"{name}: {printable(str(self))}")
        error.__cause__ = self.__cause__
        return error


class Attempts:
    """One script call or command under way, and the time that it has left."""

    def __init__(self, host: CallHost, repeatable: bool, give_up_at: float) -> None:
        self._host = host
        self._repeatable = repeatable
        self._tries = 0
        self._give_up_at = give_up_at
        self.losses = host.losses
        """How many connections its store had lost when this was last sent."""

    def send_script(self, call: Call, auxiliary: bool = False, first_error: Exception | None = None) -> Flow[Any]:
        """Send a script call by its digest, or whole to a server that does not know the script.

        ``met`` is what it met when it was already sent once.
        """
        return self.send_until_reply(call.tag, call.words(), auxiliary, call.spec.script, first_error)

    def send_command(self, tag: str, words: list[str]) -> Flow[Any]:
        """Send a plain command that only reads."""
        return self.send_until_reply(tag, words, auxiliary=True)

    def send_until_reply(
        self,
        tag: str,
        words: list[str],
        auxiliary: bool,
        script: Script | None = None,
        first_error: Exception | None = None,
    ) -> Flow[Any]:
        """Send until there is a reply, a final refusal, or no time left.

        ``auxiliary`` epochs what is no part of a call's effect: it may always be repeated, and does not itself
        wait for the settings to be checked.
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
            # Outside the except block, so that the next try's error does not carry this one along.
            error, first_error, asking = first_error, None, None
            if isinstance(error, NoScriptError) and script:
                # EVAL goes the same way, so it loads the script on just the node that lacks it.
                words[:2] = "EVAL", script.source
                script = None
            elif isinstance(error, AskError):
                asking = yield from self._redirected(error)
                if asking is None and self._host.shard_moved(tag) and not auxiliary:
                    yield from self._host.prepare(tag, self)
            else:
                yield from self._recover(error, repeatable)
                if not auxiliary:
                    yield from self._host.prepare(tag, self)

    def _recover(self, error: Exception, repeatable: bool) -> Flow[None]:
        """Wait before the next try, or raise what the caller gets to see."""
        failure, cause = classify.classify(error), classify.root_cause(error)
        if failure is Failure.REJECTED:
            raise CallFailed(ServerRefusedError, classify.describe_rejection(cause)) from cause
        self._host.server_may_have_changed()
        if failure is Failure.UNKNOWN and not repeatable:
            raise CallFailed(
                OutcomeUnknownError,
                f"sent, but the reply was lost ({cause}): it may have happened or not; look before doing it again",
            ) from cause
        yield from self._pause(cause)

    def _redirected(self, error: AskError) -> Flow[tuple[str, int] | None]:
        """Follow a cluster's redirect at once; wait only when they do not end. The node to ask, for ASK."""
        self._host.slot_map_version += 1
        if not (yield FollowRedirect(error)):
            raise CallFailed(ServerRefusedError, classify.describe_rejection(error)) from error
        if self._tries < _FREE_REDIRECTS:
            self._tries += 1
        else:
            yield from self._pause(error)
        return None if isinstance(error, MovedError) else (error.host, error.port)

    def _pause(self, cause: BaseException) -> Flow[None]:
        self._tries += 1
        seconds = _BACKOFF.compute(self._tries)
        until = time.monotonic() + seconds
        if until >= self._give_up_at:
            tries = "1 try" if self._tries == 1 else f"{self._tries} tries"
            last = str(cause).rstrip(".")
            raise CallFailed(
                StoreUnavailableError,
                f"no answer within {self._host.deadline:g} s ({tries}; last: {last}): "
                "check that the server is up and reachable; the call is safe to retry",
                until,
            ) from cause
        yield Sleep(seconds)

    def _timeout(self) -> float | None:
        """Seconds for the next try; None, the connection's own, while the deadline has hardly begun.

        A time of its own takes a connection of its own, so the usual case must do without.
        """
        left = self._give_up_at - time.monotonic()
        return None if left > 0.9 * self._host.deadline else max(0.001, left)
