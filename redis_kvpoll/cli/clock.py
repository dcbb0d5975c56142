"""The server's clock: what a table's times are compared with.

Invariant: an age is never taken as longer than it is, also if the operator's host is ahead of the server. So what was
changed this instant is not stuck.
"""

from __future__ import annotations

import functools
import time

from redis_kvpoll.errors import KVPollError

SECONDS = 2.0
"""For how long a cluster is asked for its nodes."""


class ServerClock:
    """The time of a table's server, by its TIME, which is read once, when it is first needed."""

    def __init__(self, url: str) -> None:
        self._url = url

    def now(self) -> float:
        """Return the Unix time that the server has now."""
        return time.time() + self._offset

    @functools.cached_property
    def _offset(self) -> float:
        """The seconds that the server is ahead; of a cluster the node whose clock is the furthest behind.

        0 if a server does not let this user ask, or is in this process.
        """
        from redis_kvpoll.doctor import node_look
        from redis_kvpoll.sync.connect import transport_from_url
        from redis_kvpoll.transport.urls import parse

        if parse(self._url).kind in ("memory", "embedded"):
            return 0.0
        transport = transport_from_url(self._url, SECONDS)
        try:
            nodes = transport.nodes(SECONDS)
            readings = [node_look.read_clock(each.pool) for each in nodes if each.slots is None or each.slots]
        except (*node_look.FAILURES, KVPollError):
            return 0.0
        finally:
            transport.close()
        return min((one.server - one.before for one in readings if one is not None), default=0.0)
