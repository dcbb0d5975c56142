"""What one of several ranks knows of a shard: the feed tells of all ranks, and this one's view must follow from that.

A rank's view of a room is its own status, and Failed as soon as any rank is. A rank that has not been heard of sees
only that; one that has cleared sees nothing. So a change by another rank mostly changes nothing here, or all: Failed.
Two things do not follow from what is known: whether a room that has failed and is not in view is one that this rank
has cleared, and what its own status was where others have left Failed again. Such rooms are uncertain until they have
been read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis_kvpoll.commands.replies import known
from redis_kvpoll.mirror.shard import NOWHERE, Shard
from redis_kvpoll.status import KVPoll

_UNCERTAIN: Any = object()


class RankShard(Shard):
    """A shard as ``rank`` sees it."""

    def __init__(
        self,
        statuses: dict[int, KVPoll],
        wants: Callable[[int], bool] | None,
        tell: Callable[[int, KVPoll | None], object],
        rank: str,
    ) -> None:
        super().__init__(statuses, wants, tell)
        self._own = b"rank:" + rank.encode()

    def begin(self, position: int) -> None:
        super().begin(position)
        self.uncertain.clear()

    def _entry(self, at: int, fields: Sequence[bytes], now: float) -> None:
        ttl = None
        heard: set[int] = set()
        for place in range(0, len(fields), 2):
            name, value = fields[place : place + 2]
            if name == b"ttl_ms":
                ttl = int(value) / 1000
            elif name.isdigit() and self.wants(room := int(name)):
                whose, its = fields[place + 2 : place + 4] or (b"", b"")
                if not whose.startswith(b"rank:"):
                    whose = its = b""
                last = self._ids.get(room, NOWHERE)
                if at > last or room in heard:
                    heard.add(room)
                    self._hear(room, at, known(value), whose, its)
                elif at < last and room in self._untold:
                    view = self._view(self._untold[room], known(value), whose, its)
                    if view is not _UNCERTAIN:
                        self._tell(room, view)
                if ttl is not None and at >= last and room in self._statuses:
                    self.expiry.set(room, now + ttl)

    def _hear(self, room: int, at: int, agreed: KVPoll | None, whose: bytes, its: bytes) -> None:
        """What all agree on is news; whose change it was, and that rank's status, if it was one's."""
        if room in self._unconfirmed and whose != self._own and agreed is not None:
            return  # from before a fresh start: nothing follows from that, and it is read before this is over
        was = self._statuses.get(room)
        view = self._view(was, agreed, whose, its)
        if view is _UNCERTAIN:
            self.uncertain[room] = at
        elif view is not None or was is not None or agreed is None or whose == self._own:
            self._put(room, view, at)

    def _view(self, was: KVPoll | None, agreed: KVPoll | None, whose: bytes, its: bytes) -> KVPoll | None:
        """What the view has become that was ``was``."""
        if agreed is None:
            return None
        if whose == self._own:
            view = known(its)
            return agreed if view is not None and agreed is KVPoll.Failed else view
        if its == b"absent":
            return was
        if agreed is KVPoll.Failed:
            return _UNCERTAIN if was is None else agreed
        return _UNCERTAIN if was is KVPoll.Failed else was

    def _put(self, room: int, status: KVPoll | None, at: int, own: bool = False) -> None:
        super()._put(room, status, at, own)
        if self.uncertain.get(room, at + 1) <= at:
            del self.uncertain[room]

    def _forget(self, room: int) -> None:
        super()._forget(room)
        self.uncertain.pop(room, None)
