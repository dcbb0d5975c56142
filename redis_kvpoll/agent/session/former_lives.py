"""The lives that a client has opened through a former session, as they are told to its next one.

The table may have such a life still. If not, the life is opened again, unless that would bring a failure back: to
others it would be a new one.
"""

from __future__ import annotations

from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.agent.session.request_ids import request_of
from redis_kvpoll.agent.session.table_member import MemberRoom, TableMember
from redis_kvpoll.aio import hosted
from redis_kvpoll.model import Entry, KVPoll


class FormerLives:
    """What the table has of the lives of one client's former sessions. ``entry`` is what it has of a life's room."""

    def __init__(self, member: TableMember, hello: ClientHello) -> None:
        self._member = member
        self._hello = hello

    async def adopt(self, life: RoomLife, entry: Entry | None) -> MemberRoom | None:
        """Return the handle with which to go on with a life; None if the table does not have it."""
        if entry is None or entry.generation != life.generation:
            return None
        return await self._member.adopt(entry)

    async def may_open_again(self, room: int, life: RoomLife, entry: Entry | None) -> bool:
        """Return whether to open a life again that the table does not have.

        A Failed one only if the table has lost it with its data, as other ranks bring it back live. But one that was
        cleared here as well is over: nobody would end it.
        """
        if life.is_over:
            return False
        if life.status != KVPoll.Failed:
            return True
        is_free = entry is None or entry.request == request_of(self._hello, life)
        return is_free and await self._has_lost(room, life.generation)

    async def _has_lost(self, room: int, generation: int) -> bool:
        epochs = dict(self._hello.former[1]) if self._hello.former else {}
        return await hosted.has_lost(self._member.store, epochs, room, generation)
