"""The data of a server at one moment, to be put into another one: a replica that lags, or a disk that is behind."""

from __future__ import annotations

from typing import Any

import redis
from redis.client import NEVER_DECODE

from redis_kvpoll.protocol import keys


class Backup:
    """A server's keys as they are when this is made. The feed is one of them, so the marks of a store tell the age."""

    def __init__(self, client: redis.Redis) -> None:
        found: list[Any] = list(client.scan_iter("kvpoll:*", count=1000))
        self._keys = [(key, client.pttl(key), _call(client, "DUMP", key)) for key in found]

    def restore(self, client: redis.Redis, passed_ms: int = 0) -> None:
        """Replace what a server of the same kind has. A key without a TTL gets none; one that had less than
        ``passed_ms`` left has expired."""
        client.flushall()
        for key, left, value in self._keys:
            if left < 0 or left > passed_ms:
                client.restore(key, max(0, left - passed_ms), value)


def lose_room(client: redis.Redis, tag: str, room: int) -> None:
    """Take a room from a server, with every entry of the feed that names it: to the server it never was there."""
    client.delete(*keys.rooms(tag, [room]))
    feed, name = keys.feed(tag), str(room)
    for entry_id, fields in client.xrange(feed):
        if name in fields or name.encode() in fields:
            client.xdel(feed, entry_id)


def _call(client: redis.Redis, *words: str) -> Any:
    """The reply as bytes, also of a client that decodes replies: a dump is no text."""
    return client.execute_command(*words, **{NEVER_DECODE: True})  # type: ignore[no-untyped-call]
