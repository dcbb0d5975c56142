"""The owners of a namespace, from what each shard has of its leases: read by ``owners()``, statistics and the doctor.

Invariant: fields and members that no script writes are passed over.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from redis_kvpoll.model import Owner
from redis_kvpoll.protocol import keys, replies, script_specs
from redis_kvpoll.protocol.feed import parse_rank
from redis_kvpoll.protocol.lease_commands import owner_in
from redis_kvpoll.protocol.script_call import Command

SHOWN_SECONDS = 3600.0
"""As in lease_due.lua."""

_RECORD = re.compile(rb"(\d+) (\d+) (\d+) (\d+) (\d+)")
_LOST = re.compile(rb"lost (\d+)")
_FAILED = re.compile(rb"failed (\d+)")
_BY = re.compile(rb"by (\d+)")
_ALIVE = re.compile(rb"alive (\d+)")
_FULL = re.compile(rb"(\d{1,15}) (\d{1,15})")
_GONE = re.compile(rb"gone (\d+)")


class Parts:
    """What incarnations take part in."""

    def __init__(self) -> None:
        self.rooms: Counter[int] = Counter()
        """The live rooms of each."""
        self.ranks: defaultdict[int, set[int]] = defaultdict(set)
        """The ranks as which each takes part."""

    def add(self, held: Mapping[int, set[int]]) -> None:
        """Count one room, by the incarnations that hold a part of it, each with its ranks."""
        for incarnation, ranks in held.items():
            self.rooms[incarnation] += 1
            self.ranks[incarnation] |= ranks

    def of(self, owner: Owner) -> Owner:
        """Return an owner with what it takes part in."""
        ranks = tuple(sorted(self.ranks.get(owner.incarnation, ())))
        return replace(owner, rooms=self.rooms[owner.incarnation], ranks=ranks)


def parts(rooms: list[int], found: Parts) -> Command[Mapping[int, set[int]], None]:
    """Add to ``found`` the live rooms that each incarnation takes part in."""

    def count(_: list[int], holders: list[Mapping[int, set[int]]]) -> None:
        for held in holders:
            found.add(held)

    return Command("owners", script_specs.ENTRY, rooms, [], _holders, count)


def _holders(_: str, rooms: list[int], reply: list[Any]) -> list[Mapping[int, set[int]]]:
    for pairs in reply[2::3]:
        if isinstance(pairs, Exception):
            replies.raise_denied(pairs)
    return [{} if isinstance(pairs, Exception) else _holders_of(pairs) for pairs in reply[2::3]]


def _holders_of(pairs: list[bytes]) -> Mapping[int, set[int]]:
    """Return the incarnations that hold a part of a room, each with its ranks. A corrupt room has none."""
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    status = replies.parse_status(fields.get(b"status"))
    if status is None or status.is_terminal:
        return {}
    if b"world_size" not in fields:
        holder = fields.get(b"incarnation", b"")
        return {int(holder): set()} if holder.isdigit() else {}
    found: dict[int, set[int]] = {}
    for name, value in fields.items():
        if name.startswith(b"by:") and value.isdigit():
            rank = parse_rank(name[3:])
            found.setdefault(int(value), set()).update(() if rank is None else (rank,))
    return found


def words_of(reply: Any) -> list[bytes]:
    """Return the names and values in a reply to HGETALL, of RESP2 or RESP3."""
    return [word for pair in reply.items() for word in pair] if isinstance(reply, dict) else list(reply)


def has_lost(words: Iterable[bytes]) -> bool:
    """Whether the fields of a shard's leases have a lost incarnation."""
    return any(_LOST.fullmatch(name) for name in words)


def list_due(tag: str) -> list[str]:
    """Return the command that lists when a shard looks at each lease again."""
    return ["ZRANGEBYSCORE", keys.due(tag), "-inf", "+inf", "WITHSCORES"]


def parse_due(reply: Any) -> dict[bytes, float]:
    """Return when each lost incarnation had its rooms failed, from the reply to ``list_due``."""
    pairs = reply if reply and isinstance(reply[0], list | tuple) else zip(reply[::2], reply[1::2], strict=True)
    due = ((_GONE.fullmatch(member), score) for member, score in pairs)
    times = {found[1]: float(score) / 1000 - SHOWN_SECONDS for found, score in due if found}
    return {incarnation: at for incarnation, at in times.items() if math.isfinite(at)}


def parse_owners(fields: Iterable[bytes], now: float, lost_at: Mapping[bytes, float] | None = None) -> list[Owner]:
    """Return the leases in the fields of a shard's key, without their rooms; ``now`` is the server's Unix time."""
    words, lost_times = list(fields), lost_at or {}
    pairs = list(zip(words[::2], words[1::2], strict=True))
    by = {found[1]: value.decode("utf-8", "replace") for name, value in pairs if (found := _BY.fullmatch(name))}
    failed = {found[1]: int(value) for name, value in pairs if (found := _FAILED.fullmatch(name)) and value.isdigit()}
    alive = {found[1]: int(value) for name, value in pairs if (found := _ALIVE.fullmatch(name)) and value.isdigit()}
    owners = []
    for name, value in pairs:
        if record := _RECORD.fullmatch(value):
            incarnation, ttl_ms, heartbeat_ms, last_heartbeat_ms, suspected_ms = map(int, record.groups())
            has_expired = now > (last_heartbeat_ms + ttl_ms) / 1000
            state: Literal["alive", "expired", "suspected"] = "alive"
            if has_expired or suspected_ms:
                state = "suspected" if suspected_ms else "expired"
            owner = name.decode("utf-8", "replace")
            times = (ttl_ms / 1000, heartbeat_ms / 1000, last_heartbeat_ms / 1000)
            owners.append(Owner(owner, incarnation, *times, state, process=by.get(record[1], "")))
        elif lost := _LOST.fullmatch(name):
            reason = value.decode("utf-8", "replace")
            one = Owner(owner_in(reason), int(lost[1]), state="lost", reason=reason, process=by.get(lost[1], ""))
            ended, contested = lost_times.get(lost[1], 0.0), alive.get(lost[1], 0) / 1000
            owners.append(replace(one, failed=failed.get(lost[1], 0), lost_at=ended, contested_at=contested))
    return owners


class MemoryFull(NamedTuple):
    """When heartbeats found the server at its maxmemory: since when, and the last time. Unix times of the server."""

    since: float
    last: float


def full_words(tag: str) -> list[str]:
    """Return the command that reads what ``parse_full`` takes."""
    return ["HGET", keys.leases(tag), "memory full"]


def parse_full(reply: bytes | None) -> MemoryFull | None:
    """Return when a shard's server had no memory, as lua/renew.lua writes it; None if no heartbeat has found that."""
    found = _FULL.fullmatch(reply or b"")
    return MemoryFull(int(found[1]) / 1000, int(found[2]) / 1000) if found else None


def merge_owners(by_shard: Iterable[Iterable[Owner]]) -> list[Owner]:
    """Return each lease once, from what the shards have, the first shard first; the oldest lease first."""
    found: dict[tuple[str, int], Owner] = {}
    for owners in by_shard:
        for owner in owners:
            other = found.setdefault((owner.name, owner.incarnation), owner)
            if other is not owner:  # the first shard has its heartbeats, another may know that it was lost
                worst = max(other, owner, key=lambda owner: _STATES.index(owner.state))
                failed = other.failed + owner.failed
                ends = [each.lost_at for each in (other, owner) if each.lost_at]
                merged = replace(
                    other,
                    state=worst.state,
                    reason=worst.reason,
                    failed=failed,
                    lost_at=max(ends, default=0.0),
                    process=other.process or owner.process,
                    contested_at=max(other.contested_at, owner.contested_at),
                )
                found[owner.name, owner.incarnation] = merged
    return sorted(found.values(), key=lambda owner: owner.incarnation)


_STATES = ("alive", "expired", "suspected", "lost")
"""From best to worst. A lease is shown in the worst state that a shard has for it."""
