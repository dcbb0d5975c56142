"""When Redis counts as unreachable to a client: it logs the beginning and the end, once each.

The causes are in the agent's own log, since its followers and leases log only what is rejected there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from redis_kvpoll.errors import KVPollError

logger = logging.getLogger("redis_kvpoll")

OUTAGE_SECONDS = 1.0
"""The followers must be out of sync, or the lease not be renewed, for this long before Redis counts as unreachable, and
not just as slow."""
MAX_CAUSES = 10
"""The most causes of one outage that are logged: some have a number that changes with each try."""


class Outage:
    """Whether one client can reach Redis. ``log`` is called with a level and a text."""

    def __init__(self, name: str, log: Callable[[int, str], object]) -> None:
        self.is_logged = False
        """Whether Redis counts as unreachable."""
        self._name = name
        self._causes: set[str] = set()
        """Those of this outage that were logged."""
        self._log = log
        self._since: float | None = None

    def note(self, is_up: bool, trouble: str = "") -> None:
        """Take note of whether everything is in sync and can be written, and why not, as far as that is known."""
        now = time.monotonic()
        if is_up:
            if self.is_logged:
                seconds = now - (self._since or now)
                self._log(logging.INFO, f"{self._name}: Redis is reachable again after {seconds:.1f} s")
            self._since, self.is_logged = None, False
            self._causes.clear()
        elif self._since is None:
            self._since = now
        elif now - self._since > OUTAGE_SECONDS:
            self.begin()
            if trouble and self._is_new(trouble):
                logger.warning("redis_kvpoll: %s has no contact with Redis: %s", self._name, trouble)

    def begin(self) -> None:
        """Redis is unreachable now."""
        self._since = self._since or time.monotonic()
        if not self.is_logged:
            self.is_logged = True
            text = f"{self._name}: Redis is unreachable; the program continues without it. The agent's log says why"
            self._log(logging.WARNING, text)

    def cannot_join(self, error: Exception) -> None:
        """The client cannot join again. This is tried often: each reason is logged once.

        With its traceback, if it is a bug.
        """
        if self._is_new(str(error)):
            bug = None if isinstance(error, KVPollError | TimeoutError) else error
            logger.warning("redis_kvpoll: %s cannot join again, and tries on: %s", self._name, error, exc_info=bug)
        self.begin()

    def _is_new(self, cause: str) -> bool:
        """Whether a cause is to be logged."""
        if cause in self._causes or len(self._causes) >= MAX_CAUSES:
            return False
        self._causes.add(cause)
        return True
