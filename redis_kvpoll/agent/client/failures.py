"""What a channel's failed connections mean: what is logged of them, and how long it pauses before the next one. No I/O.

Invariant: each reason of several failures is logged once, and the log says when there is an agent again.
"""

from __future__ import annotations

import logging

from redis_kvpoll.agent.client.patience import Timing
from redis_kvpoll.agent.client.source import AgentSource, ServicePath
from redis_kvpoll.agent.link import Link

logger = logging.getLogger("redis_kvpoll")


class ConnectionFailures:
    """Counts the failures since a connection lasted."""

    def __init__(self, source: AgentSource, timing: Timing) -> None:
        self._source = source
        self._timing = timing
        self._count = 0
        self._logged: set[str] = set()
        """Why they failed."""
        self._short_ones = 0
        """How many were welcomed and did not last, one after the other."""
        self._is_warned = False
        """Whether the log's last line says that there is no agent."""

    def welcomed(self, agent: int, former: int) -> None:
        """Log which agent there is, if it was another one or none before."""
        if self._is_warned or former not in (0, agent):
            logger.info("redis_kvpoll: connected to agent %d", agent)
            self._is_warned = False

    def given_up(self, agent: int) -> None:
        """Log that an agent does not answer."""
        logger.warning("redis_kvpoll: agent %d does not answer; connecting to another", agent)
        self._is_warned = True

    def lasting(self) -> None:
        """Forget all failures: a connection lasts."""
        self._count = 0
        self._logged.clear()

    def ended(self, link: Link) -> float:
        """Return how many seconds to pause after a connection that has ended: none after one that had lasted."""
        self._short_ones = 0 if link.has_lasted else self._short_ones + link.is_welcome
        if self._count or not link.is_welcome or self._short_ones > 1:
            return self.failed(link.refusal or self._source.ended_text, is_refused=bool(link.refusal))
        return 0.0

    def failed(self, why: str, *, is_refused: bool = False) -> float:
        """Log why, unless it was logged, and return how many seconds to pause."""
        where, longest_pause = "", self._timing.longest_pause
        if isinstance(self._source, ServicePath):
            where = f" at {self._source.path}"
            longest_pause = longest_pause if is_refused else self._timing.service_pause
        self._count += 1
        if why not in self._logged:
            self._logged.add(why)
            logger.warning("redis_kvpoll: no connection to the agent%s: %s; trying again", where, why)
            self._is_warned = True
        return min(longest_pause, 0.025 * 2.0 ** min(self._count, 20))
