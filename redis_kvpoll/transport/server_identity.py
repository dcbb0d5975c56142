"""Which server a connection leads to: the same in sync and aio.

A server is identified by its run id, which is new after each start, and its replication id, which is new after each
promotion. Where a server does not report them (fakeredis, an ACL without INFO), each lost connection may lead to
another server.

Invariant: a pool keeps only connections to the newest server that it has found.
"""

from __future__ import annotations

import re
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from redis_kvpoll.engine.effects import Send

ASK_IDENTITY = (("INFO", "server"), ("INFO", "replication"))
"""The commands that each new connection begins with, in one round trip. ``INFO`` takes several sections from Redis 7.0
on only."""

_RUN_ID = re.compile(rb"^run_id:(\w+)", re.MULTILINE)
_REPLICATION_ID = re.compile(rb"^master_replid:(\w+)", re.MULTILINE)


class KnownServer:
    """The server that an endpoint leads to, as its connections have found it.

    A connection gets the attributes ``server``, its identity, and ``losses``, the losses before it was opened. A reply
    over it says something about the newest server only if ``server`` is ``current``.
    """

    def __init__(self) -> None:
        self.current = b""
        self.losses = 0
        """The number of connections that were lost: each may have meant that another server took over."""

    def lost(self) -> None:
        self.losses += 1

    def admit(self, connection: Any, before: tuple[bytes, int], replies: list[Any]) -> None:
        """Identify the server of a new connection. ``before`` is what ``snapshot`` returned before it was opened.

        Raises:
            ConnectionError (redis-py's): another connection has found another server meanwhile.
        """
        current, losses = before
        found = _identity(replies) or b"unreported, after %d losses" % losses
        if found != self.current != current:
            raise RedisConnectionError("another server took over while this connection was opened")
        self.current = connection.server = found
        connection.losses = losses

    def is_good(self, connection: Any) -> bool:
        """Whether a connection is good for further calls: no connection was lost since it was opened, either."""
        is_good: bool = connection.losses == self.losses and connection.server == self.current
        return is_good

    def snapshot(self) -> tuple[bytes, int]:
        return self.current, self.losses

    def may_send(self, connection: Any, effect: Send) -> bool:
        """Whether a connection leads to the server that a call is meant for; if any will do, note which it is."""
        if effect.asking:
            return True  # this node is about to get the slot
        if effect.server is None:
            effect.server = connection.server
        return bool(effect.server == connection.server)


def _identity(replies: list[Any]) -> bytes:
    """Return the identity in the replies to ASK_IDENTITY, some of which may be errors; empty if there is none."""
    if not all(isinstance(reply, bytes) for reply in replies) or len(replies) != len(ASK_IDENTITY):
        return b""
    run_id, replication_id = _RUN_ID.search(replies[0]), _REPLICATION_ID.search(replies[1])
    return b":".join(found[1] for found in (run_id, replication_id) if found) if run_id else b""
