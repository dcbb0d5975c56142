"""What the other ranks have of a client's rooms, for stages of a pipeline, told as it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from redis_kvpoll.agent import messages
from redis_kvpoll.agent.session.told import ToldRooms
from redis_kvpoll.aio.mirror import AsyncMirror
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.errors import StoreClosedError
from redis_kvpoll.model import KVPoll

COALESCE_SECONDS = 0.002
"""Changes that come within this time are told together."""
ROOMS = 500
"""Rooms in one message."""


class RankFollower:
    """Follows all ranks of a client's rooms, by a mirror.

    ``published_life`` gives the current life of a room if the table has it: only its ranks are told.
    """

    def __init__(
        self,
        store: AsyncStatusStore,
        rooms: ToldRooms,
        published_life: Callable[[int], int | None],
        send: Callable[[int, bytes], object],
    ) -> None:
        self.mirror: AsyncMirror = store.mirror(rooms=self._is_relevant)
        self._rooms = rooms
        self._published_life = published_life
        self._send = send
        self._touched: set[int] = set()
        self._told: dict[int, tuple[int, dict[int, KVPoll]]] = {}

    def opened(self, room: int) -> None:
        """Tell what is known of a room that the table has now."""
        self._touch(room)

    def forget(self, room: int) -> None:
        """Forget a room that is over."""
        self._told.pop(room, None)

    def _is_relevant(self, room: int) -> bool:
        """Return whether to follow a room. The mirror asks for each room of an entry, just before it applies it."""
        is_relevant = self._rooms.is_relevant(room)
        if is_relevant:
            self._touch(room)
        return is_relevant

    def _touch(self, room: int) -> None:
        if not self._touched:
            asyncio.get_running_loop().call_later(COALESCE_SECONDS, self._tell)  # entries are read without a pause
        self._touched.add(room)

    def _tell(self) -> None:
        touched, self._touched = self._touched, set()
        news = []
        for room in touched:
            number = self._published_life(room)
            if number is None:
                continue
            try:
                ranks = self.mirror.collect(room)
            except StoreClosedError:  # it was closed just now
                return
            if self._told.get(room) != (number, ranks):
                self._told[room] = number, ranks
                news.append((room, number, ranks))
        for at in range(0, len(news), ROOMS):
            self._send(messages.RANKS, messages.encode_ranks(news[at : at + ROOMS]))
