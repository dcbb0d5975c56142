"""SGLang's rule for merging the statuses of a room, as ints."""

from __future__ import annotations

from redis_kvpoll.model import KVPoll

FAILED, SUCCESS = int(KVPoll.Failed), int(KVPoll.Success)
CREATING = (int(KVPoll.Bootstrapping), int(KVPoll.WaitingForInput))
"""The statuses that may open a room: the policy strict, and SGLang's own rule since 0.5.20. Before that (PR 24539, the
policy compat) any status but Failed opens one, so that a late Success brings a cleared room back."""


def merge(one: int, other: int) -> int:
    """Return the merge of two statuses of one room: Failed wins, else the greater."""
    if one == FAILED or other == FAILED:
        return FAILED
    return one if one >= other else other


def merge_optional(one: int | None, other: int | None) -> int | None:
    """Return the same where either may be missing."""
    if one is None or other is None:
        return other if one is None else one
    return merge(one, other)
