"""One call on its way to the server: retries, scripts the server forgot, redirects, and the deadline."""

from __future__ import annotations

import math
import time
from typing import Any, Protocol

from redis.backoff import EqualJitterBackoff
from redis.exceptions import AskError, MovedError, NoScriptError, RedisError

from redis_kvpoll.engine import classify
from redis_kvpoll.engine.classify import Fault, NotSent
from redis_kvpoll.engine.effects import Flow, Pause, Reroute, Send
from redis_kvpoll.errors import KVPollError, OutcomeUnknownError, ServerRefusedError, StoreUnavailableError, printable
from redis_kvpoll.protocol.script_call import Call
from redis_kvpoll.protocol.scripts import Script

# Seconds. The first pause is about 10 ms, as long as a server takes to accept again after a restart on the same
# host; a quarter of a second at most, so that 1,000 waiting clients do not hammer a server that comes back.
_BACKOFF = EqualJitterBackoff(cap=0.25, base=0.01)
# Redirects followed at once. One is usual (a slot has moved); more come only from nodes that disagree, and those
# need a moment.
_FREE_REDIRECTS = 4


class Home(Protocol):
    """Where trips start from: what one needs to know of its store."""

    deadline: float
    losses: int
    map_version: int

    @property
    def namespace(self) -> str: ...
    def unsettle(self) -> None: ...
    def moved(self, tag: str) -> bool: ...
    def prepare(self, tag: str, trip: Trip) -> Flow[None]: ...


class Undelivered(Exception):  # noqa: N818 - between a trip and its store, never seen outside
    """A trip ended without a reply. The store names the operation and raises ``kind``.

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


class Trip:
    """One script call or command under way, and the time that it has left."""

    def __init__(self, home: Home, repeatable: bool, give_up_at: float) -> None:
        self._home = home
        self._repeatable = repeatable
        self._tries = 0
        self._give_up_at = give_up_at
        self.losses = home.losses
        """How many connections its store had lost when this was last sent."""

    def carry(self, call: Call, preliminary: bool = False, met: Exception | None = None) -> Flow[Any]:
        """Send a script call by its digest, or whole to a server that does not know the script.

        ``met`` is what it met when it was already sent once.
        """
        return self._persist(call.tag, call.words(), preliminary, call.shape.script, met)

    def ask(self, tag: str, words: list[str]) -> Flow[Any]:
        """Send a plain command that only reads."""
        return self._persist(tag, words, preliminary=True)

    def _persist(
        self,
        tag: str,
        words: list[str],
        preliminary: bool,
        script: Script | None = None,
        met: Exception | None = None,
    ) -> Flow[Any]:
        """Send until there is a reply, a final refusal, or no time left.

        ``preliminary`` marks what is no part of a call's effect: it may always be repeated, and does not itself
        wait for the settings to be checked.
        """
        repeatable = preliminary or self._repeatable
        asking = None
        while True:
            if met is None:
                self.losses = self._home.losses
                try:
                    return (yield Send(tag, words, self._timeout(), not repeatable, asking))
                except (NotSent, RedisError, OSError) as caught:
                    met = caught
            # Outside the except block, so that the next try's error does not carry this one along.
            error, met, asking = met, None, None
            if isinstance(error, NoScriptError) and script:
                # EVAL goes the same way, so it loads the script on just the node that lacks it.
                words[:2] = "EVAL", script.source
                script = None
            elif isinstance(error, AskError):
                asking = yield from self._redirected(error)
                if asking is None and self._home.moved(tag) and not preliminary:
                    yield from self._home.prepare(tag, self)
            else:
                yield from self._recover(error, repeatable)
                if not preliminary:
                    yield from self._home.prepare(tag, self)

    def _recover(self, error: Exception, repeatable: bool) -> Flow[None]:
        """Wait before the next try, or raise what the caller gets to see."""
        fault, cause = classify.judge(error), classify.reason(error)
        if fault is Fault.REFUSED:
            raise Undelivered(ServerRefusedError, classify.refusal(cause)) from cause
        self._home.unsettle()
        if fault is Fault.LOST and not repeatable:
            raise Undelivered(
                OutcomeUnknownError,
                f"sent, but the reply was lost ({cause}): it may have happened or not; look before doing it again",
            ) from cause
        yield from self._pause(cause)

    def _redirected(self, error: AskError) -> Flow[tuple[str, int] | None]:
        """Follow a cluster's redirect at once; wait only when they do not end. The node to ask, for ASK."""
        self._home.map_version += 1
        if not (yield Reroute(error)):
            raise Undelivered(ServerRefusedError, classify.refusal(error)) from error
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
            raise Undelivered(
                StoreUnavailableError,
                f"no answer within {self._home.deadline:g} s ({tries}; last: {last}): "
                "check that the server is up and reachable; the call may be repeated",
                until,
            ) from cause
        yield Pause(seconds)

    def _timeout(self) -> float | None:
        """Seconds for the next try; None, the connection's own, while the deadline has hardly begun.

        A time of its own takes a connection of its own, so the usual case must do without.
        """
        left = self._give_up_at - time.monotonic()
        return None if left > 0.9 * self._home.deadline else max(0.001, left)
