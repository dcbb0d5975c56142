"""Walking over all rooms of a namespace, a page at a time, by SCAN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.script_call import CallContext

PAGE = 1000
MAX_WALKS = 5
"""Of one shard. While a slot is on its way, every look is redirected; a walk that waited for its end might never
come to one itself. It may then miss rooms that are being moved."""


class Scan:
    """The state of one walk: where it stands, and which rooms it has already given.

    SCAN may name a key twice, and gives every key that is there from start to end; a room that comes or goes
    meanwhile may be in it or not.

    In a cluster, each shard is walked on its own node. SCAN is no keyed command: a node that has lost the slot
    answers it as if nothing were wrong. So each walk of a shard begins and ends with a keyed look, which is
    redirected when the slot has moved, and is begun again when the map of slots has changed in between.
    """

    def __init__(self, clustered: bool, tags: Sequence[str] | None = None) -> None:
        self._clustered = clustered
        self._tags = None if tags is None else list(tags)
        """The shards that are left to walk over; None for all, before the first look."""
        self._cursor: str | None = None if clustered or tags is None else "0"
        """None: the walk of this shard has not begun, or has come to its end."""
        self._map_version: int | None = None
        self._walks = 0
        self._seen: set[int] = set()

    def request(self, context: CallContext, slot_map_version: int) -> tuple[str, list[str]] | None:
        """(the shard to ask, the words to send) next; None after the last.

        ``slot_map_version`` is another number whenever the map of slots may be another.
        """
        if self._tags is None:
            tags = keys.tags(context.namespace, context.shards)
            self._tags = tags if self._clustered or context.shards == 1 else [f"{context.namespace}/*"]
            self._cursor = None if self._clustered else "0"
        if not self._tags:
            return None
        tag = self._tags[0]
        if self._cursor is None:
            return tag, ["EXISTS", *keys.rooms(tag, [0])]
        if self._map_version is None:
            self._map_version = slot_map_version
        return tag, ["SCAN", self._cursor, "MATCH", keys.rooms_pattern(tag), "COUNT", str(PAGE)]

    def page(self, reply: Any, slot_map_version: int) -> list[int]:
        """The rooms of the reply that were not given before."""
        if self._cursor is None:
            self._looked(slot_map_version)
            return []
        cursor, names = reply
        self._cursor = cursor.decode()
        if self._cursor == "0":
            self._cursor = None
            if not self._clustered:
                self._next_shard()
        rooms = {room for name in names if (room := keys.room_of(name)) is not None} - self._seen
        self._seen |= rooms
        return list(rooms)

    def _looked(self, slot_map_version: int) -> None:
        """A keyed look was answered by the node that has the slot: begin the walk, or end it."""
        if self._map_version == slot_map_version or self._walks > MAX_WALKS:
            self._next_shard()
        else:
            self._map_version, self._cursor = slot_map_version, "0"
            self._walks += 1

    def _next_shard(self) -> None:
        assert self._tags is not None  # noqa: S101 - there is no page before the first request
        self._tags.pop(0)
        self._map_version, self._walks = None, 0
