"""Listing all rooms of a namespace by SCAN, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.script_call import CallContext

PAGE = 1000
"""Keys that one SCAN examines. It blocks the server."""
MAX_RESTARTS = 5
"""Per shard. While the cluster keeps changing, unlimited restarts might never end. After the last one, rooms that have
moved meanwhile may be missing, or those of a server that took over."""

Address: TypeAlias = tuple[str, int]
"""Host and port of a node."""


class Scan:
    """The state of one listing: its position, and the rooms that it has returned.

    SCAN may return a key twice; each room is returned once, unless ``is_distinct`` is False, which saves the memory of
    all ids. ``page`` is how many keys one SCAN examines. A room that exists throughout is returned; one that is
    created or deleted during the listing may be missing.

    In a cluster, each shard is scanned on its own node. SCAN is not a keyed command, so a node that has lost the slot
    answers it without a redirect. Therefore a keyed check precedes and follows the scan of a shard: the server
    redirects it when the slot has moved, and the scan restarts when the slot map has changed in between. The key that
    is checked exists nowhere, so no node can have it in the place of another.

    While a slot moves, its node answers the check with ASK: some rooms are at the node that it names, and more follow.
    Then that node is scanned after the slot's own, so that a room that moves meanwhile is found on one of them.

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
        self._moves_to: Address | None = None
        """The node to which the slot moves, by the check before this scan; None if it does not move."""
        self.asking: Address | None = None
        """The node that the next request asks in the place of the slot's own."""
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
            return tag, ["EXISTS", keys.nothing(tag)]
        if self._map_version is None:
            self._map_version = slot_map_version
        return tag, ["SCAN", self._cursor, "MATCH", keys.rooms_pattern(tag), "COUNT", self._page]

    def page(
        self, reply: Any, slot_map_version: int, server: bytes | None = None, asked: Address | None = None
    ) -> list[int]:
        """Return the rooms in a reply from ``server`` that were not returned before.

        ``asked`` is the node that an ASK named for this request, or ``asking``; None if the slot's own has answered.
        """
        self.server = server if self._scans <= MAX_RESTARTS else None
        if self._cursor is None:
            self._slot_checked(slot_map_version, asked)
            return []
        if asked != self.asking and self._scans <= MAX_RESTARTS:  # sent again, to another node than asked for
            self.server_changed()
            return []
        cursor, names = reply
        self._cursor = cursor.decode()
        if self._cursor == "0":
            self._node_scanned()
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
        self._cursor, self._map_version, self.asking = None if self._clustered else "0", None, None
        self._scans += not self._clustered  # in a cluster, the check counts it

    def _slot_checked(self, slot_map_version: int, asked: Address | None) -> None:
        """A node answered a keyed check: start or restart the scan, or finish the shard."""
        is_unchanged = self._map_version == slot_map_version and self._moves_to == asked
        if is_unchanged or self._scans > MAX_RESTARTS:
            self._next_shard()
            return
        self._map_version, self._moves_to, self._cursor = slot_map_version, asked, "0"
        self._scans += 1
        if asked is not None:
            self.server = None  # the slot's own node, which is next, has not answered

    def _node_scanned(self) -> None:
        """The scan of a node is complete: scan the one to which the slot moves, or check again."""
        if self._moves_to is not None:
            self.server = None  # another node is next
        if self.asking != self._moves_to:
            self.asking = self._moves_to
            return
        self._cursor = self.asking = None
        if not self._clustered:
            self._next_shard()

    def _next_shard(self) -> None:
        assert self._tags is not None  # noqa: S101 - there is no page before the first request
        self._tags.pop(0)
        self._map_version, self._moves_to, self._scans, self.server = None, None, 0, None
