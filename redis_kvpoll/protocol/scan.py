"""Listing all rooms of a namespace by SCAN, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.script_call import CallContext

PAGE = 1000
"""Keys that one SCAN examines. It blocks the server."""
MAX_RESTARTS = 5
"""Per shard. While a slot is being migrated, every check is redirected, and unlimited restarts might never end. After
the last one, rooms that are being moved may be missing, or those of a server that took over."""


class Scan:
    """The state of one listing: its position, and the rooms that it has returned.

    SCAN may return a key twice; each room is returned once, unless ``is_distinct`` is False, which saves the memory of
    all ids. ``page`` is how many keys one SCAN examines. A room that exists throughout is returned; one that is
    created or deleted during the listing may be missing.

    In a cluster, each shard is scanned on its own node. SCAN is not a keyed command, so a node that has lost the slot
    answers it without a redirect. Therefore a keyed check precedes and follows the scan of a shard: the server
    redirects it when the slot has moved, and the scan restarts when the slot map has changed in between.

    A cursor means something to one server only. If another has taken over, the scan of the shard restarts there.
    """

    def __init__(
        self, clustered: bool, tags: Sequence[str] | None = None, page: int = PAGE, is_distinct: bool = True
    ) -> None:
        self._clustered = clustered
        self._page = str(page)
        self._tags = None if tags is None else list(tags)
        """The shards that are left; None for all, before the first request."""
        self._cursor: str | None = None if clustered or tags is None else "0"
        """None before and after the scan of a shard, when a keyed check is next."""
        self._map_version: int | None = None
        self._scans = 0
        self.server: bytes | None = None
        """The identity of the server that must answer the next request; None if any may."""
        self._seen: set[int] | None = set() if is_distinct else None

    def request(self, context: CallContext, slot_map_version: int) -> tuple[str, list[str]] | None:
        """Return the shard and the command of the next request; None after the last.

        ``slot_map_version`` changes whenever the slot map may have changed.
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
        return tag, ["SCAN", self._cursor, "MATCH", keys.rooms_pattern(tag), "COUNT", self._page]

    def page(self, reply: Any, slot_map_version: int, server: bytes | None = None) -> list[int]:
        """Return the rooms in a reply from ``server`` that were not returned before."""
        self.server = server if self._scans <= MAX_RESTARTS else None
        if self._cursor is None:
            self._slot_checked(slot_map_version)
            return []
        cursor, names = reply
        self._cursor = cursor.decode()
        if self._cursor == "0":
            self._cursor = None
            if not self._clustered:
                self._next_shard()
        rooms = {room for name in names if (room := keys.room_of(name)) is not None}
        if self._seen is not None:
            rooms -= self._seen
            self._seen |= rooms
        return list(rooms)

    def server_changed(self) -> None:
        """Restart the scan of the shard: another server than ``server`` has taken over, and nothing was read."""
        self.server = None
        if self._scans > MAX_RESTARTS:
            return
        self._cursor, self._map_version = None if self._clustered else "0", None
        self._scans += not self._clustered  # in a cluster, the check counts it

    def _slot_checked(self, slot_map_version: int) -> None:
        """The node that has the slot answered a keyed check: start or restart the scan, or finish the shard."""
        if self._map_version == slot_map_version or self._scans > MAX_RESTARTS:
            self._next_shard()
        else:
            self._map_version, self._cursor = slot_map_version, "0"
            self._scans += 1

    def _next_shard(self) -> None:
        assert self._tags is not None  # noqa: S101 - there is no page before the first request
        self._tags.pop(0)
        self._map_version, self._scans, self.server = None, 0, None
