"""The messages between a client and its session: kinds, and how they are written. Pure.

Every message about a room carries the number of the life that it is about. What a client tells often is a struct with
bounded texts; what is rare is JSON.

To add one: a kind with a number of its own here, and who handles it in session or in the client.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from struct import Struct
from typing import Any

from redis_kvpoll.agent.life import HAS_LENGTH, HAS_REASON, HAS_STATUS, IS_NEW, IS_OVER, Life
from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.model import KVPoll
from redis_kvpoll.validation import MAX_PREFIX_LEN, MAX_REASON, MAX_REQUEST

# From the client
CHANGE = 64
"""A room's changes in one life: what is unsent of a Life, read as a RoomLife."""
HOLD = 65
"""A room is open here, and is not to be in the table yet; or no longer."""
WANT_REASON = 66
"""A thread waits for another rank's reason; or no longer."""
READ_FAILURE = 67
"""What has failed in the other table may concern this life: is it so still, and whose is it?"""
LEAVE = 68
"""Publish what is pending, and leave the table."""

# From the session
JOINED = 80
REFUSED = 81
"""Joining has failed: text, and what else the client needs for its advice."""
OPENED = 82
"""Lives that the table has now, each with its generation."""
ENDED = 83
"""Lives of which the table has all, their ends too."""
FAILED = 84
"""A life has failed in its table: the reason, and whether an operator did it."""
FAILURE_WAITS = 85
"""A room that a life here has, has failed in the other table."""
FAILURE_READ = 86
"""It is so still: by whom it was failed, its owner, the reason, and if nobody did it all owners of that table."""
REASON = 87
"""Another rank's reason."""
STATE = 88
RANKS = 89
"""What each rank has of a room, for stages of a pipeline."""
LOG = 90
"""A line for the client's log."""
BROKEN = 91
"""The session has ended by a bug."""
LEFT = 92
LEASE = 93
"""The client's lease, for the next session: its incarnation, and the epoch of each shard."""
NEWS = 94
"""Several of these messages, for one look of the client's: their kinds and payloads."""

PROGRESS = frozenset({OPENED, ENDED, STATE, RANKS, LEASE, NEWS})
"""The kinds that any thread of the client may take: their handlers need no lock but that of the rooms."""
STATUSES = frozenset(map(int, KVPoll))
_ROOM_BYTES = 16
_NO_STATUS = -1
_FLAGS = IS_NEW | IS_OVER | HAS_LENGTH
_HEAD = Struct("<Qqq")
"""What a CHANGE begins with: the room and the number of its life. The room is in two halves, low and high."""
_TAIL = Struct("<BbqqdHH")
_CHANGE = Struct(_HEAD.format + _TAIL.format[1:])
_HALF_BITS = 64
_LOW_HALF = (1 << _HALF_BITS) - 1
_LIFE = Struct(f"<{_ROOM_BYTES}sqBd")
_OPENED = Struct(f"<{_ROOM_BYTES}sqq")
_RANKS = Struct(f"<{_ROOM_BYTES}sqH")
_RANK = Struct("<Hb")
_PART = Struct("<BI")


@dataclass(frozen=True, slots=True)
class ClientHello:
    """Who a client is, and what it wants of which table. Durations are seconds."""

    url: str
    options: dict[str, Any]
    """Of the store that it writes, its rank among them."""
    owner: str
    name: str
    """The owner's name for people."""
    instance: str
    """Common to all ranks that share rooms."""
    lease: float
    join: float
    other: str = ""
    """The namespace whose failures it hears too."""
    collects: bool = False
    """Whether it wants the other ranks' statuses."""
    former: list[Any] = field(default_factory=list)
    """The lease that it has from a former session, as in LEASE; empty if none."""
    process: str = ""
    """Its process for the owners' list, as ``host:pid``: as it sees itself, and as its own log names it."""

    @property
    def rank(self) -> int | None:
        """Which of the ranks that share its rooms it is; None if it has none."""
        return self.options.get("rank")

    @property
    def world_size(self) -> int:
        """How many ranks share its rooms."""
        return int(self.options.get("world_size") or 1)

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, payload: bytes) -> ClientHello:
        """Return what a client of this or a later version has encoded; what is not known here is left out."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in json.loads(payload).items() if name in known})


def _tail(flags: int, status: int) -> bytes:
    return _TAIL.pack(flags, status, -1, 0, 0.0, 0, 0)


STATUS_ALONE: dict[int | None, bytes] = {status: _tail(0, status) for status in STATUSES}
"""What follows a life's head in a CHANGE that has a status alone."""
OVER_ALONE = _tail(IS_OVER, _NO_STATUS)
"""The same if it only says that the life is over."""


def encode_change(life: Life) -> bytes:
    """Return the payload of CHANGE: what is unsent of a life. It sets the life's head."""
    unsent = life.unsent
    status: int | None = _NO_STATUS
    if unsent & HAS_STATUS and life.status in STATUSES:
        status = life.status
    length, generation, opened_at, request, reason = -1, 0, 0.0, b"", b""
    if unsent != HAS_STATUS:
        if unsent & HAS_LENGTH and life.length is not None:
            length = max(-1, min(life.length, MAX_PREFIX_LEN + 1))  # one that is too large is refused later
        if unsent & IS_NEW:
            generation, opened_at = life.generation, life.opened_at
            request = _text(life.request, MAX_REQUEST) if life.request else b""
        if unsent & HAS_REASON and life.reason[: MAX_REASON + 1].strip():  # the table would refuse a blank one
            reason = _text(life.reason, MAX_REASON)
    life.head = head = _HEAD.pack(life.room & _LOW_HALF, life.room >> _HALF_BITS, life.number)
    tail = _TAIL.pack(unsent & _FLAGS, status, length, generation, opened_at, len(request), len(reason))
    return head + tail + request + reason


def decode_change(payload: bytes) -> tuple[int, RoomLife]:
    """Return the room and the changes of a CHANGE."""
    low, high, number, flags, status, length, generation, opened_at, *sizes = _CHANGE.unpack_from(payload)
    request_size, reason_size = sizes
    end = _CHANGE.size + request_size
    return high << _HALF_BITS | low, RoomLife(
        number,
        is_new=bool(flags & IS_NEW),
        request=payload[_CHANGE.size : end].decode("utf-8", "surrogatepass"),
        status=None if status == _NO_STATUS else status,
        reason=payload[end : end + reason_size].decode("utf-8", "surrogatepass"),
        length=length if flags & HAS_LENGTH else None,
        is_over=bool(flags & IS_OVER),
        generation=generation,
        opened_at=opened_at,
    )


def encode_life(room: int, number: int, flag: bool = False, moment: float = 0.0) -> bytes:
    """Return the payload of a message that names one life: HOLD, WANT_REASON, READ_FAILURE, FAILURE_WAITS.

    ``flag``: HOLD: it is over; WANT_REASON: a thread waits. ``moment``: HOLD: since when. Unused in the others.
    """
    return _LIFE.pack(_room(room), number, flag, moment)


def decode_life(payload: bytes) -> tuple[int, int, bool, float]:
    room, number, flag, moment = _LIFE.unpack(payload)
    return int.from_bytes(room, "little", signed=True), number, bool(flag), moment


def encode_lives(lives: Iterable[tuple[int, int, int]]) -> bytes:
    """Return the payload of OPENED or ENDED: each a room, the life's number, and its generation."""
    return b"".join(_OPENED.pack(_room(room), number, generation) for room, number, generation in lives)


def decode_lives(payload: bytes) -> Iterator[tuple[int, int, int]]:
    for room, number, generation in _OPENED.iter_unpack(payload):
        yield int.from_bytes(room, "little", signed=True), number, generation


def encode_ranks(rooms: Iterable[tuple[int, int, dict[int, KVPoll]]]) -> bytes:
    """Return the payload of RANKS: each a room, the life's number, and what each rank has."""
    pieces = []
    for room, number, ranks in rooms:
        pieces.append(_RANKS.pack(_room(room), number, len(ranks)))
        pieces += [_RANK.pack(rank, status) for rank, status in ranks.items()]
    return b"".join(pieces)


def decode_ranks(payload: bytes) -> Iterator[tuple[int, int, dict[int, KVPoll]]]:
    at = 0
    while at < len(payload):
        room, number, count = _RANKS.unpack_from(payload, at)
        at += _RANKS.size
        end = at + count * _RANK.size
        ranks = {rank: KVPoll(status) for rank, status in _RANK.iter_unpack(payload[at:end])}
        yield int.from_bytes(room, "little", signed=True), number, ranks
        at = end


def encode_news(parts: Iterable[tuple[int, bytes]]) -> bytes:
    """Return the payload of NEWS."""
    return b"".join(_PART.pack(kind, len(payload)) + payload for kind, payload in parts)


def decode_news(payload: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(payload):
        kind, size = _PART.unpack_from(payload, at)
        at += _PART.size
        yield kind, payload[at : at + size]
        at += size


def encode_words(*words: Any) -> bytes:
    """Return the payload of a rare message."""
    return json.dumps(words).encode()


def decode_words(payload: bytes) -> list[Any]:
    found: list[Any] = json.loads(payload)
    return found


def _room(room: int) -> bytes:
    return room.to_bytes(_ROOM_BYTES, "little", signed=True)


def _text(text: str, limit: int) -> bytes:
    """Return a text, one character longer than the limit at most: the table cuts what is too long, and says so."""
    return text[: limit + 1].encode("utf-8", "surrogatepass")
