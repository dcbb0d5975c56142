"""Why rooms failed, as far as the feed reports it."""

from __future__ import annotations

from typing import NamedTuple

from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol.feed import RankField, decode_reason


class FailureReason(NamedTuple):
    """A room's reason from the feed, and its status as far as the feed was read."""

    text: str
    status: KVPoll


class FailureReasons(dict[int, FailureReason]):
    """The reasons of the rooms of a shard. They change in the order of the feed; nothing else reports them.

    Invariant: it holds existing rooms only. As in the scripts, a reason is dropped with its room, and when the room
    leaves Failed.
    """

    __slots__ = ()

    def apply(self, room: int, status: KVPoll | None, reason: bytes | None, field: RankField | None) -> None:
        """Store the reason in an entry, or drop the former one if it is no longer the room's.

        A room that a rank creates (``field``) is a new one. So is one whose status falls, but not to Failed: the former
        one has expired, which no entry reports.
        """
        kept = self.get(room)
        if status is None:
            self.pop(room, None)
        elif reason is not None:
            self[room] = FailureReason(decode_reason(reason) or "", status)
        elif kept is not None:
            left_failed = kept.status is KVPoll.Failed and status is not KVPoll.Failed
            begins = field is not None and field.is_first
            if begins or left_failed or KVPoll.Failed is not status < kept.status:
                del self[room]
            else:
                self[room] = kept._replace(status=status)

    def text(self, room: int, newest: KVPoll | None) -> str | None:
        """Return the reason of a room whose ``newest`` status may be ahead of the feed; None when it is absent."""
        kept = self.get(room)
        if kept is None or newest is None or (kept.status is KVPoll.Failed and newest is not KVPoll.Failed):
            return None
        return kept.text
