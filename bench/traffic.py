"""The calls of a request, from creation to Success."""

from __future__ import annotations

from redis_kvpoll import KVPoll

LIFE = (
    KVPoll.Bootstrapping,
    KVPoll.WaitingForInput,
    KVPoll.Transferring,
    KVPoll.Transferring,
    KVPoll.Transferring,
    KVPoll.Success,
)
"""One CREATED, three ADVANCED, two UNCHANGED: a long prompt is sent in chunks, each with a Transferring."""


def calls(rooms: list[int]) -> list[tuple[int, KVPoll]]:
    """The calls of all rooms, status by status."""
    return [(room, status) for status in LIFE for room in rooms]
