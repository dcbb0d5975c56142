"""Decodes what a room with ranks has of each: its status, and the lease under which it takes part.

Invariant: a field that no script writes is passed over.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol.feed import STATUSES, parse_rank

_NUMBER = re.compile(rb"[1-9][0-9]{0,15}")


class RankStatuses(NamedTuple):
    """The ranks of a room, in their order."""

    consensus: KVPoll | None
    statuses: dict[int, KVPoll]
    """The status of each rank, the last one of a rank that has cleared."""
    cleared: set[int]


def ranks_of(words: Any) -> RankStatuses:
    """Return the ranks in the reply of snapshot_ranks.lua."""
    parts = words.split()
    fields = dict(zip(parts[::2], parts[1::2], strict=True))
    cleared = ranks_in(fields, b"cleared:")
    statuses = dict(sorted({**ranks_in(fields, b"status:"), **cleared}.items()))
    return RankStatuses(STATUSES.get(fields.get(b"status", b"")), statuses, set(cleared))


def ranks_in(fields: dict[bytes, bytes], start: bytes) -> dict[int, KVPoll]:
    """Return the status of each rank that has a field with the prefix ``start``."""
    found: dict[int, KVPoll] = {}
    for name, value in fields.items():
        if name.startswith(start) and (rank := parse_rank(name[len(start) :])) is not None:
            status = STATUSES.get(value)
            if status is not None:
                found[rank] = status
    return found


def rank_leases_in(fields: dict[bytes, bytes]) -> dict[int, int]:
    """Return the incarnation of the lease under which each rank takes part."""
    found = ((parse_rank(name[3:]), value) for name, value in fields.items() if name.startswith(b"by:"))
    return {rank: int(value) for rank, value in found if rank is not None and _NUMBER.fullmatch(value)}
