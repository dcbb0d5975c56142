"""The request for which a client opens a room in the table."""

from __future__ import annotations

from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.validation import MAX_REQUEST


def request_of(hello: ClientHello, life: RoomLife) -> str:
    """Return the request of a life in the table: equal for all ranks of its instance, and for no other life.

    The client's id alone is not enough: a router may try one request with a second instance. Without an id it is the
    life's number, which only a single rank can use.
    """
    if life.request:
        id_ = "".join(letter if letter.isprintable() else "?" for letter in life.request)
        return f"{id_[: MAX_REQUEST - len(hello.instance) - 1]} {hello.instance}"
    return hello.instance if hello.world_size > 1 else f"{hello.owner}#{life.number}"
