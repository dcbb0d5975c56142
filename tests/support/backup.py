"""The data of a server at one moment, to be put into another one: a replica that lags, or a disk that is behind."""

from __future__ import annotations

from typing import Any

import redis


class Backup:
    """A server's keys as they are when this is made. The feed is one of them, so the marks of a store tell the age."""

    def __init__(self, client: redis.Redis) -> None:
        raw = _raw(client)
        found: list[Any] = list(raw.scan_iter("kvpoll:*", count=1000))
        self._keys = [(key, raw.pttl(key), raw.dump(key)) for key in found]

    def restore(self, client: redis.Redis) -> None:
        """Replace what a server of the same kind has. A key without a TTL gets none."""
        raw = _raw(client)
        raw.flushall()
        for key, left, value in self._keys:
            raw.restore(key, max(0, left), value)


def _raw(client: redis.Redis) -> redis.Redis:
    """The client, or one that does not decode replies: a dump is no text."""
    options = client.connection_pool.connection_kwargs
    if not options.get("decode_responses"):
        return client
    return type(client)(**{**options, "decode_responses": False})
