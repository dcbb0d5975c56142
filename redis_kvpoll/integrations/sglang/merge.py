"""SGLang's rule for statuses, which are its ints here."""

from __future__ import annotations

from redis_kvpoll.model import KVPoll

FAILED, SUCCESS = int(KVPoll.Failed), int(KVPoll.Success)
OPENING = (int(KVPoll.Bootstrapping), int(KVPoll.WaitingForInput))
"""What may create a room: SGLang's rule since PR 24539, and the policy strict."""


def further(one: int, other: int) -> int:
    """What two statuses of one room come to: Failed stays; else the further one."""
    return FAILED if FAILED in (one, other) else max(one, other)


def merged(one: int | None, other: int | None) -> int | None:
    """The same, where one or both may not be known."""
    if one is None or other is None:
        return other if one is None else one
    return further(one, other)
