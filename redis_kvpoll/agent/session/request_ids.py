"""The request for which a client opens a room in the table."""

from __future__ import annotations

from typing import Protocol

from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.validation import MAX_REQUEST


class RoomWriter(Protocol):
    """Who a client is."""

    @property
    def owner(self) -> str: ...
    @property
    def instance(self) -> str: ...
    @property
    def world_size(self) -> int: ...


def request_of(writer: RoomWriter, life: RoomLife) -> str:
    """Return the request of a life in the table: equal for all ranks of its instance, and for no other life.

    The client's id alone is not enough: a router may try one request with a second instance. Without an id it is the
    life's number, which only a single rank can use.
    """
    if life.request:
        id_ = "".join(letter if letter.isprintable() else "?" for letter in life.request)
        return f"{id_[: MAX_REQUEST - len(writer.instance) - 1]} {writer.instance}"
    return writer.instance if writer.world_size > 1 else f"{writer.owner}#{life.number}"
