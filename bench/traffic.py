"""The calls that a request makes while it lives."""

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
"""One CREATED, three ADVANCED, two UNCHANGED: a long prompt is sent in chunks, and every chunk says Transferring."""


def calls(rooms: list[int]) -> list[tuple[int, KVPoll]]:
    """The whole life of each room, with all rooms in flight together."""
    return [(room, status) for status in LIFE for room in rooms]
