"""Writes of a caller that speaks for several ranks: what they say of one room is one step on the server.

Each change has the identity of its rank, since the caller has none. The result is that of the same calls by a store of
each rank, in this order. Changes of one room that follow each other cost little more than one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis_kvpoll.model import KVPoll, Outcome, Update
from redis_kvpoll.protocol import replies, script_specs
from redis_kvpoll.protocol.script_call import Command, named
from redis_kvpoll.validation import reason as checked_reason
from redis_kvpoll.validation import status_name


class RankIdentity(NamedTuple):
    """A rank, and the lease under which it takes part, if any."""

    rank: int
    world_size: int
    owner: str = ""
    incarnation: str = ""


class RankChange(NamedTuple):
    """What one rank says of one room."""

    room: int
    identity: RankIdentity
    generation: int
    """Its room's; 0 for a plain update."""
    status: KVPoll | None = None
    reason: str = ""
    length: int | None = None
    """The decode prefix length, recorded before the status."""
    clears: bool = False
    """Whether the rank clears the room; then there is no status."""


@named
def write_ranks(changes: Sequence[RankChange]) -> Command[Update | Exception, list[Update | Exception]]:
    """Apply changes in their order. The result has an update for each, or the error with which it was refused."""
    items = [word for change in changes for word in _words(change)]
    return Command("write_ranks", script_specs.WRITE_RANKS, [c.room for c in changes], items, _updates, _in_order)


def _words(change: RankChange) -> tuple[str, ...]:
    rank, world_size, owner, incarnation = change.identity
    status = "absent" if change.clears else "" if change.status is None else status_name(change.status)
    return (
        *(str(rank), str(world_size), owner, incarnation),
        *(str(change.generation or ""), status, checked_reason(change.reason) if change.reason else ""),
        "" if change.length is None else str(change.length),
    )


def _updates(operation: str, rooms: list[int], reply: list[Any]) -> list[Update | Exception]:
    found: list[Update | Exception] = []
    for number, room in enumerate(rooms):
        words = reply[number * 2 : number * 2 + 2]
        try:
            if words[0] == Outcome.CLEARED.value:
                found.append(Update(Outcome.CLEARED, replies.parse_status(words[1])))
            else:
                found += replies.updates(operation, [room], words)
        except Exception as error:
            found.append(error)
    return found


def _in_order(_: list[int], found: list[Update | Exception]) -> list[Update | Exception]:
    return found
