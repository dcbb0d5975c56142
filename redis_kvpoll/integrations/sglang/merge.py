"""SGLang's rule for merging the statuses of a room, as ints."""

from __future__ import annotations

from redis_kvpoll.model import KVPoll

FAILED, SUCCESS = int(KVPoll.Failed), int(KVPoll.Success)
CREATING = (int(KVPoll.Bootstrapping), int(KVPoll.WaitingForInput))
"""The statuses that may create a room: SGLang's rule since PR 24539, and the policy strict."""


def merge(one: int, other: int) -> int:
    """Return the merge of two statuses of one room: Failed wins, else the greater."""
    return FAILED if FAILED in (one, other) else max(one, other)


def merge_optional(one: int | None, other: int | None) -> int | None:
    """Return the same where either may be missing."""
    if one is None or other is None:
        return other if one is None else one
    return merge(one, other)
