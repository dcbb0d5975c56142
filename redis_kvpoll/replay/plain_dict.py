"""What a plain dict would have made of a replay's messages, by SGLang's own rule. Pure.

One dict a side, with ``update_status`` as in SGLang: a late Failed is skipped if the room is absent, any other status
creates it; in a room that is there Failed wins, else the higher status. The messages are those of a fenced replay, in
the order in which the table saw them: a write that the table took came before its request's clear, whatever the clocks
of two processes say, and one that it refused came after.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from redis_kvpoll.model import KVPoll


class Kind(IntEnum):
    """What a message does; at the same time, in this order."""

    OPEN = 0
    WRITE = 1
    CLEAR = 2
    LATE = 3


class Message(NamedTuple):
    """One message to the dict of one side."""

    at: float
    kind: Kind
    request: int
    room: int
    status: KVPoll


class DictFigures(NamedTuple):
    """What went wrong in a dict."""

    came_back: int = 0
    """Rooms that a late message created again after their clear."""
    hit: frozenset[int] = frozenset()
    """Requests that found another's entry in their room, or whose entry another's message changed."""


def figures(messages: Iterable[Message]) -> DictFigures:
    """Apply the messages of one side to an empty dict."""
    table: dict[int, KVPoll] = {}
    holders: dict[int, int] = {}
    came_back, hit = 0, set()
    for _, kind, request, room, status in sorted(messages):
        current = table.get(room)
        if kind is Kind.CLEAR:
            table.pop(room, None)
            holders.pop(room, None)
            continue
        if kind is Kind.OPEN:
            holders[room] = request
            if current is not None:
                hit.add(request)
        elif current is None:
            if status is KVPoll.Failed:
                continue
            came_back += 1
        table[room] = merged = _merge(current, status)
        holder = holders.get(room, request)
        if merged is not current and holder != request:
            hit.add(holder)
    return DictFigures(came_back, frozenset(hit))


def _merge(current: KVPoll | None, status: KVPoll) -> KVPoll:
    if current is None or status is KVPoll.Failed:
        return status
    return max(current, status)
