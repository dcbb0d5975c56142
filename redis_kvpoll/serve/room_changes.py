"""The changes of single rooms, for their pages. A feed is read whole for them, so that one reads it at a time."""

from __future__ import annotations

import time
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.errors import FeedOffError, KVPollError
from redis_kvpoll.model import Entry
from redis_kvpoll.protocol.feed import Change
from redis_kvpoll.serve.turns import BusyError, Turns

SHARE_OF_EACH = 0.02
"""Of a CPU, for each list of rooms that somebody looks at, and for the changes of each room."""
MOST_KEPT = 200
"""Lists, and rooms: more than the pages that the hub makes each second, else each would read its own again."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class RoomChanges:
    """What the feed of one table has of its rooms."""

    def __init__(self, store: AsyncStatusStore, turns: Turns) -> None:
        self._store = store
        self._turns = turns
        self._kept: dict[int, tuple[Entry, list[Change], float]] = {}
        """By room: the entry for which its changes were read, and until when they are not read again."""

    async def known(self, entry: Entry) -> list[Change] | None:
        """Return the same as ``read``, but without waiting for a turn.

        Where that waits, those of before if the room still has their status; else None, as while the server is away.
        """
        if self._turns.is_taken:
            kept = self._kept.get(entry.room)
            if kept is None or (kept[0].generation, kept[0].status) != (entry.generation, entry.status):
                return None
            return kept[1]
        with suppress(KVPollError, BusyError):  # the former is in the watch's state
            return await self.read(entry)
        return None

    async def read(self, entry: Entry) -> list[Change]:
        """Return the changes of a room that the feed still has; none without a feed.

        Those of before are returned while the room has not changed, and reading them again would take too much of the
        CPU. Raises BusyError if too many wait.
        """
        seen = replace(entry, ttl=0.0)
        if (kept := self._current(seen)) is not None:
            return kept
        async with self._turns.take():
            if (kept := self._current(seen)) is not None:  # another one has read them meanwhile
                return kept
            began = time.monotonic()
            try:
                found = await self._store.history(entry.room)
            except FeedOffError:
                return []
            keep(self._kept, entry.room, (seen, found, pause_end(began)))
            return found

    def _current(self, seen: Entry) -> list[Change] | None:
        kept = self._kept.get(seen.room)
        return kept[1] if kept is not None and kept[0] == seen and time.monotonic() < kept[2] else None


def pause_end(began: float) -> float:
    """Return until when not to repeat what began then and has just ended, in monotonic seconds."""
    return began + (time.monotonic() - began) / SHARE_OF_EACH


def keep(kept: dict[K, V], key: K, value: V) -> None:
    """Put in an item as the latest, and drop the oldest of too many."""
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > MOST_KEPT:
        del kept[next(iter(kept))]
