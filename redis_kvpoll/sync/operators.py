"""What a store does for an operator's command, beside its public methods.

Invariant: no front end reads a private attribute of a store. To add what one needs: a function here.
"""

from __future__ import annotations

from collections.abc import Mapping

from redis_kvpoll.model import RoomRow, Update
from redis_kvpoll.protocol import fenced_commands, room_commands
from redis_kvpoll.protocol.feed_reader import Tail
from redis_kvpoll.sync.store import StatusStore
from redis_kvpoll.sync.tail import TailIterator


def rows_of(store: StatusStore, rooms: list[int]) -> list[RoomRow]:
    """Return the rows of some rooms, as those of ``store.rows``."""
    return store._run(room_commands.rows(rooms))


def clear_generations(store: StatusStore, generations: Mapping[int, int | None]) -> dict[int, Update]:
    """Clear rooms that are still of these generations; None is that of a plain room."""
    return store._run(fenced_commands.clear_many(generations))


def follow(store: StatusStore, feed: Tail) -> TailIterator:
    """Return what is new in the feed, without end, as ``store.tail``: from where ``feed`` begins."""
    return TailIterator(store._dispatcher, feed)
