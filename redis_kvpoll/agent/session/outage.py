"""When Redis counts as unreachable to a client: its beginning and its end are logged once each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from redis_kvpoll.errors import KVPollError

logger = logging.getLogger("redis_kvpoll")

OUTAGE_SECONDS = 1.0
"""The followers must be out of sync for this long before Redis counts as unreachable, and not just as slow."""


class Outage:
    """Whether one client can reach Redis. ``log`` is called with a level and a text."""

    def __init__(self, name: str, log: Callable[[int, str], object]) -> None:
        self.is_logged = False
        """Whether Redis counts as unreachable."""
        self._name = name
        self._reason = ""
        self._log = log
        self._since: float | None = None

    def note(self, is_up: bool) -> None:
        """Take note of whether everything is in sync."""
        now = time.monotonic()
        if is_up:
            if self.is_logged:
                seconds = now - (self._since or now)
                self._log(logging.INFO, f"{self._name}: Redis is reachable again after {seconds:.1f} s")
            self._since, self.is_logged = None, False
        elif self._since is None:
            self._since = now
        elif now - self._since > OUTAGE_SECONDS:
            self.begin()

    def begin(self) -> None:
        """Redis is unreachable now."""
        self._since = self._since or time.monotonic()
        if not self.is_logged:
            self.is_logged = True
            text = f"{self._name}: Redis is unreachable; the program continues without it. The agent's log says why"
            self._log(logging.WARNING, text)

    def cannot_join(self, error: Exception) -> None:
        """The client cannot join again. This is tried often: each reason is logged once, in the agent's own log.

        With its traceback, if it is a bug.
        """
        if str(error) != self._reason:
            self._reason = str(error)
            bug = None if isinstance(error, KVPollError | TimeoutError) else error
            logger.warning("redis_kvpoll: %s cannot join again, and tries on: %s", self._name, error, exc_info=bug)
        self.begin()
