"""The entries of the change feed, parsed: the only module that knows their names.

An entry is a list of names and values in turn, as lua/include/feed.lua writes it. The parser skips names that it does
not know, and anything that no script writes: the stream may have been written to by hand. All readers of the feed
(mirrors, the tail, the history) use it, so they agree on what an entry says.

To add a name: write it in feed.lua, and give it a field in ParsedChange and a branch in ``parse_entry``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from redis_kvpoll import validation
from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol import keys

STATUSES: dict[bytes, KVPoll | None] = {b"absent": None, **{status.name.encode(): status for status in KVPoll}}
"""The statuses by their names in the feed. A name that is not here was written by hand."""


class Change(NamedTuple):
    """One change of one room."""

    id: str
    """The id of the feed's entry; the changes of one entry share it."""
    at: float
    """When: the Unix time of the Redis server, in seconds."""
    room: int
    status: KVPoll | None
    """The status that the room got, or kept when it was only touched; None when it was cleared. With ranks, it is their
    consensus, and None once the last has cleared."""
    reason: str | None = None
    """Why the room failed, if this change recorded the reason."""
    ttl: float | None = None
    """The TTL of the room from then on, in seconds; None if it did not change, or the room was cleared."""
    rank: int | None = None
    """The rank that changed; None for a change of all ranks, as by abort and touch."""
    rank_status: KVPoll | None = None
    """The status that this rank has now; None when it has cleared."""
    opens: bool = False
    """Whether it created the room: what came before was another life of the id."""
    owner: str | None = None
    """The owner of the room, if this change created it under a lease."""


class FeedGap(NamedTuple):
    """Changes may be missing here: the feed was trimmed before they were read, or it was lost and started again."""

    after: str
    """The id of the last entry that was read, which the feed no longer has."""
    before: str | None
    """The id of the entry that comes next; None when there is none yet."""


_MAX_ROOM = validation.MAX_ROOM
_ROOM_DIGITS = keys.ROOM_DIGITS
_MAX_TTL_MS = int(validation.MAX_SECONDS * 1000)
_TTL_DIGITS = len(str(_MAX_TTL_MS))
_RANK_DIGITS = len(str(validation.MAX_WORLD_SIZE))


class Opening(NamedTuple):
    """What an entry says of a room that it created."""

    generation: str
    """Empty for a plain room."""
    owner: str | None = None
    request: str | None = None


class RankField(NamedTuple):
    """A rank that an entry names: ``rank:3`` or ``rank:3,4``, or ``first:3`` if that rank created the room."""

    rank: int
    is_first: bool


ParsedChange: TypeAlias = tuple[int, bytes, float | None, bytes | None, RankField | None, bytes]
"""(room, name of its status, ttl in seconds, reason, rank that changed, name of that rank's status)."""


def parse_entry(fields: Sequence[bytes], openings: dict[int, Opening] | None = None) -> list[ParsedChange]:
    """Return the changes of one entry, in its order; in ``openings`` those that created a room, by their index.

    A mirror runs this for every change in the table, so the changes are plain tuples, with statuses as names.

    What follows a TTL that no store sets was written by hand, too: a mirror that took it would keep the room for good.
    """
    found: list[ParsedChange] = []
    ttl: float | None = None
    is_room = is_foreign = False
    words = iter(fields)
    for name, value in zip(words, words, strict=False):
        if name.isdigit():
            is_room = False
            # As keys.parse_room, without its call: with a zero in front, a room would have two names.
            if value in STATUSES and not is_foreign and len(name) <= _ROOM_DIGITS and (name >= b"1" or name == b"0"):
                room = int(name)
                if room <= _MAX_ROOM:
                    found.append((room, value, ttl, None, None, b""))
                    is_room = True
        elif name == b"ttl_ms":
            ttl = _parse_ttl(value)
            is_foreign = ttl is None
        elif is_room and name == b"reason":
            room, status, room_ttl, _, rank, rank_status = found[-1]
            found[-1] = room, status, room_ttl, value, rank, rank_status
        elif openings is not None and is_room and name in _OPENING_WORDS:
            _add_opening(openings, len(found) - 1, name, value)
        elif is_room and value in STATUSES:
            for changed in _parse_rank_field(name):
                room, status, room_ttl, reason, rank, _ = found[-1]
                if rank is None:
                    found[-1] = room, status, room_ttl, reason, changed, value
                else:  # one of several ranks that changed together
                    found.append((room, status, room_ttl, None, changed, value))
    return found


_OPENING_WORDS = (b"first", b"owner", b"request")


def _add_opening(openings: dict[int, Opening], at: int, name: bytes, value: bytes) -> None:
    text = value.decode("utf-8", "replace")
    if name == b"first":
        openings[at] = Opening(text)
    elif at in openings:
        opening = openings[at]
        openings[at] = opening._replace(owner=text) if name == b"owner" else opening._replace(request=text)


def changes(entry_id: bytes, fields: Sequence[Any]) -> list[Change]:
    """Return the changes of one entry for display, in its order. Never raises, whatever the entry holds."""
    words = [word if isinstance(word, bytes) else b"" for word in fields]
    shown_id = entry_id.decode("ascii", "replace")
    milliseconds = entry_id.partition(b"-")[0]
    at = int(milliseconds) / 1000 if milliseconds.isdigit() and len(milliseconds) <= 20 else 0.0
    found = []
    openings: dict[int, Opening] = {}
    for index, (room, name, ttl, reason, rank, rank_name) in enumerate(parse_entry(words, openings)):
        status = STATUSES[name]
        change = Change(shown_id, at, room, status, decode_reason(reason), None if status is None else ttl)
        if (opening := openings.get(index)) is not None:
            change = change._replace(opens=True, owner=opening.owner)
        if rank is not None:
            change = change._replace(rank=rank.rank, rank_status=STATUSES[rank_name])
        found.append(change)
    return found


def decode_reason(reason: bytes | None) -> str | None:
    """The text of a reason, whatever bytes it has."""
    return None if reason is None else reason.decode("utf-8", "replace")


# Most entries repeat a few TTLs and ranks. The caches are bounded, since anything may have been written by hand.


@lru_cache(maxsize=256)
def _parse_ttl(milliseconds: bytes) -> float | None:
    """Seconds, from the milliseconds of a TTL; None if no store sets such a TTL."""
    if not milliseconds.isdigit() or len(milliseconds) > _TTL_DIGITS or int(milliseconds) > _MAX_TTL_MS:
        return None
    return int(milliseconds) / 1000


@lru_cache(maxsize=2 * validation.MAX_WORLD_SIZE)
def parse_rank(digits: bytes) -> int | None:
    """Return the rank that the name of a field ends in; None if no script writes it so."""
    if not digits.isdigit() or len(digits) > _RANK_DIGITS or (digits[:1] == b"0" and digits != b"0"):
        return None
    rank = int(digits)
    return rank if rank < validation.MAX_WORLD_SIZE else None


@lru_cache(maxsize=2 * validation.MAX_WORLD_SIZE)
def _parse_rank_field(name: bytes) -> tuple[RankField, ...]:
    """Return the ranks that a name lists; none if no script writes it so."""
    kind, _, digits = name.partition(b":")
    if kind not in (b"rank", b"first"):
        return ()
    ranks = [parse_rank(one) for one in digits.split(b",")]
    return tuple(RankField(rank, kind == b"first") for rank in ranks if rank is not None)
