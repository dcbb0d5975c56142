"""Walking over all rooms of a namespace, a page at a time, by SCAN."""

from __future__ import annotations

from typing import Any

from redis_kvpoll import keys
from redis_kvpoll.commands.shape import Layout

PAGE = 1000


class Scan:
    """The state of one walk: where it stands, and which rooms it has already given.

    SCAN may name a key twice, and gives every key that is there from start to end; a room that comes or goes
    meanwhile may be in it or not.
    """

    def __init__(self) -> None:
        self._tags: list[str] | None = None
        self._cursor = "0"
        self._seen: set[int] = set()

    def request(self, layout: Layout, clustered: bool) -> tuple[str, list[str]] | None:
        """(the shard to ask, the words to send) for the next page; None after the last."""
        if self._tags is None:
            # In a cluster each shard is on a node of its own; one server sees all shards in a single walk.
            tags = keys.tags(layout.namespace, layout.shards)
            self._tags = tags if clustered or layout.shards == 1 else [f"{layout.namespace}/*"]
        if not self._tags:
            return None
        pattern = keys.rooms_pattern(self._tags[0])
        return self._tags[0], ["SCAN", self._cursor, "MATCH", pattern, "COUNT", str(PAGE)]

    def page(self, reply: list[Any]) -> list[int]:
        """The rooms of a page that were not given before."""
        cursor, names = reply
        self._cursor = cursor.decode()
        if self._cursor == "0" and self._tags:
            self._tags.pop(0)
        rooms = {room for name in names if (room := keys.room_of(name)) is not None} - self._seen
        self._seen |= rooms
        return list(rooms)
