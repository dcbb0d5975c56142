"""What a process tells of its rooms, read as its session reads it."""

from __future__ import annotations

from typing import Any

from redis_kvpoll.agent import messages
from redis_kvpoll.agent.client.sender import ChangeSender
from redis_kvpoll.agent.life import IS_NEW, Life
from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.integrations.sglang.registry import RoomRegistry


def encode(room: int, change: RoomLife) -> bytes:
    """Return the message of these changes of a life."""
    life = Life(room, change.number, change.opened_at)
    life.request, life.status, life.reason = change.request, change.status, change.reason
    life.length, life.is_over, life.generation = change.length, change.is_over, change.generation
    life.unsent = life.parts() if change.is_new else life.parts() & ~IS_NEW
    return messages.encode_change(life)


class Told:
    """The changes that a sender tells on a connection that takes everything."""

    def __init__(self, sender: ChangeSender) -> None:
        self.changes: list[tuple[int, RoomLife]] = []
        sender.channel = self
        sender.connected()
        sender.send_changes()

    def send(self, kind: int, payload: bytes) -> bool:
        if kind == messages.CHANGE:
            self.changes.append(messages.decode_change(payload))
        return True

    def rooms(self) -> list[int]:
        """Return the rooms of all changes that were not taken."""
        return [room for room, _ in self.changes]

    def take(self, room: int) -> RoomLife | None:
        """Return what was told of a room's oldest life, as one change, and forget it; None if nothing was."""
        of_room = [life for told, life in self.changes if told == room]
        if not of_room:
            return None
        first, *later = [life for life in of_room if life.number == of_room[0].number]
        self.changes = [one for one in self.changes if one[0] != room or one[1].number != first.number]
        for life in later:
            first.add(life)
        return first

    def take_all(self, room: int) -> list[tuple[bool, int | None, bool]]:
        """Take all lives of a room in their order: whether each is new, its status, and whether it is over."""
        return [(life.is_new, life.status, life.is_over) for life in iter(lambda: self.take(room), None)]


class ToldRegistry(RoomRegistry):
    """A registry, and what it has told."""

    def __init__(self, **words: Any) -> None:
        super().__init__(**words)
        self.told = Told(self.sender)
