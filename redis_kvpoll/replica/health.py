"""Whether a follower gets on: its failures, for the log and for whoever waits for its first sync."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from redis.exceptions import RedisError

from redis_kvpoll.engine import classify, remedies
from redis_kvpoll.engine.backoff import Backoff
from redis_kvpoll.engine.classify import Failure, NotSent
from redis_kvpoll.errors import KVPollError, ServerRefusedError, StoreUnavailableError, printable

logger = logging.getLogger("redis_kvpoll.mirror")

REJECTED_RETRY = 2.0
"""Seconds between sessions while the server rejects the connection: a person has to correct that."""

_BACKOFF = Backoff()


class FollowerHealth:
    """The health of one follower, called ``name`` in the log, and ``operation`` in errors.

    Until it is synced once, it fails when for ``limit`` seconds no session has come further than those before it.
    ``progressed`` is called when ``began`` or ``failure`` changes.
    """

    def __init__(self, name: str, limit: float, progressed: Callable[[], object], operation: str = "mirror") -> None:
        self.began = False
        """Whether the copy has been synced once."""
        self.failure: KVPollError | None = None
        """Why it is not synced yet, or what was rejected since it was synced last."""
        self.trouble = ""
        """Why its last session ended, if the server has rejected nothing: that is logged. Empty once it is synced."""
        self._name = name
        self._operation = operation
        self._limit = limit
        self._progressed = progressed
        self.failures_in_a_row = 0
        self._warned = False
        self._answers = 0
        self._most_answers = 0
        self._advanced_at = time.monotonic()

    def session_begins(self) -> None:
        self._answers = 0

    def answered(self, now: float) -> None:
        """Note that the server has answered a read of this session."""
        self._answers += 1
        if self._answers > self._most_answers:
            self._most_answers, self._advanced_at = self._answers, now

    def succeeded(self) -> None:
        if self._warned:
            logger.info("%s is current again", self._name)
        self._warned, self.failures_in_a_row = False, 0
        self.failure, self.trouble = None, ""  # so that the same rejection is logged when it comes again
        if not self.began:
            self.began = True
            self._progressed()

    def lost(self, error: BaseException) -> float:
        """Note an error that is usually temporary. The next session begins at once if this one had synced."""
        shown = printable(str(error))
        if not self._warned:
            self._warned = True
            logger.warning("%s is not current until it has resynced: %s", self._name, shown)
        self.trouble = shown
        if isinstance(error, RedisError | OSError):
            shown = printable(remedies.text_of(error)).rstrip(".")
            self.trouble = f"{shown} ({found})" if (found := remedies.remedy(error)) else shown
        if not self.began and time.monotonic() - self._advanced_at >= self._limit:
            last = f"{self._limit:g} s (last: {shown.rstrip('.')})"
            if self._most_answers:
                what = f"{self._operation}: the table could not be read to its end for {last}: check the network, and "
                what += "client-output-buffer-limit on the server"
            else:
                what = f"{self._operation}: no answer for {last}: {remedies.remedy(error)}"
            self._fail(StoreUnavailableError(what))
        self.failures_in_a_row += 1
        return 0.0 if self.failures_in_a_row == 1 else _BACKOFF.compute(self.failures_in_a_row)

    def rejected(self, error: KVPollError, cause: BaseException | None = None) -> float:
        """Note an error that a person must correct."""
        if self.began and str(error) != str(self.failure):
            logger.error("%s is not current, and retries slowly: %s", self._name, error, exc_info=cause)
        self._warned, self.trouble = True, ""
        self._fail(error)
        return REJECTED_RETRY

    def to_correct(self, error: BaseException, prefix: str = "") -> KVPollError | None:
        """Return what a person must correct, if this has ended a session; None if it is usually temporary."""
        if isinstance(error, KVPollError) and not isinstance(error, StoreUnavailableError):
            return error
        if not isinstance(error, NotSent | RedisError | OSError) or str(error).startswith("UNBLOCKED"):
            return None
        is_refused = classify.classify(error, self.failures_in_a_row) is Failure.REJECTED
        return refusal(error, prefix) if is_refused else None

    def failed_unexpectedly(self, error: BaseException) -> float:
        """Note what no session expects. It was logged, so it is kept only for who waits for the first sync."""
        if not self.began:
            what = f"{self._operation}: a function of the caller's most likely raised {printable(repr(error))}"
            self._fail(KVPollError(what))
        return REJECTED_RETRY

    def _fail(self, error: KVPollError) -> None:
        self.failure = error
        self._progressed()


def refusal(error: BaseException, prefix: str = "") -> ServerRefusedError:
    """Return the error of what the server has refused. ``prefix`` begins its text."""
    return ServerRefusedError(f"{prefix}{printable(classify.describe_rejection(classify.root_cause(error)))}")


def have_begun(every: Iterable[FollowerHealth]) -> bool:
    """Return whether all followers have synced once; raises what keeps one from it."""
    found = list(every)
    for health in found:
        if not health.began and health.failure is not None:
            raise health.failure
    return all(health.began for health in found)


def trouble_of(every: Iterable[FollowerHealth]) -> str:
    """Return why one of several followers is not current, empty if nothing is known of that."""
    return next((health.trouble for health in every if health.trouble), "")
