"""What a shard counts of the writes that it has refused, as lua/include/refused.lua writes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from redis_kvpoll.protocol.keys import parse_room

OUTCOMES = ("skipped", "stale", "busy", "lease", "world_size")
"""The outcomes of refused writes, as the hash ``refused`` names them."""


@dataclass(frozen=True, slots=True)
class LastRefused:
    """The last write that was refused. ``at`` is the server's Unix time."""

    at: float
    outcome: str
    room: int | None
    """None if a caller did not name a room as this library does."""
    owner: str | None
    """Who wanted to write it: None without a lease."""


@dataclass(frozen=True, slots=True)
class RefusedWrites:
    """The refused writes since the counts began."""

    counts: Mapping[str, int] = field(default_factory=dict)
    """By outcome."""
    since: float | None = None
    """When the counts began."""
    last: LastRefused | None = None

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def parse(reply: Any) -> RefusedWrites:
    """Return what a reply to HGETALL has, of RESP2 or RESP3. What was written by hand is passed over."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    fields = {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in pairs}
    counts = {name: int(fields[name]) for name in OUTCOMES if _is_number(fields.get(name, ""))}
    since = fields.get("since", "")
    return RefusedWrites(counts, float(since) if _is_number(since) else None, _last(fields.get("last", "")))


def _last(text: str) -> LastRefused | None:
    at, _, rest = text.partition(" ")
    outcome, _, rest = rest.partition(" ")
    room, _, owner = rest.partition(" ")
    if not _is_number(at) or outcome not in OUTCOMES:
        return None
    return LastRefused(float(at), outcome, parse_room(room.encode()), owner or None)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 20


def merge(shards: Iterable[RefusedWrites]) -> RefusedWrites:
    """Return the refused writes of several shards together."""
    found = list(shards)
    counts: Counter[str] = Counter()
    for one in found:
        counts.update(one.counts)
    since = min((one.since for one in found if one.since is not None), default=None)
    lasts = [one.last for one in found if one.last is not None]
    return RefusedWrites(counts, since, max(lasts, key=lambda last: last.at, default=None))
