"""The data of a server at one moment, to be put into another one: a replica that lags, or a disk that is behind."""

from __future__ import annotations

from typing import Any

import redis
from redis.client import NEVER_DECODE


class Backup:
    """A server's keys as they are when this is made. The feed is one of them, so the marks of a store tell the age."""

    def __init__(self, client: redis.Redis) -> None:
        found: list[Any] = list(client.scan_iter("kvpoll:*", count=1000))
        self._keys = [(key, client.pttl(key), _call(client, "DUMP", key)) for key in found]

    def restore(self, client: redis.Redis) -> None:
        """Replace what a server of the same kind has. A key without a TTL gets none."""
        client.flushall()
        for key, left, value in self._keys:
            client.restore(key, max(0, left), value)


def _call(client: redis.Redis, *words: str) -> Any:
    """The reply as bytes, also of a client that decodes replies: a dump is no text."""
    return client.execute_command(*words, **{NEVER_DECODE: True})  # type: ignore[no-untyped-call]
