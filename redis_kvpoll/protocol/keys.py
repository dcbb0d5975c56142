"""The names of all keys. No other module builds one.

The braces are Redis Cluster's hash tag: all keys of a shard are in one slot, so one script can use them together. A
single server has them too, so no key changes its name when a deployment moves to a cluster.

    kvpoll:{prod}:settings          the settings that all stores of the namespace share
    kvpoll:{prod}:room:42           one room
    kvpoll:{prod}:prefix:42         its decode prefix length
    kvpoll:{prod}:feed              the change feed, a stream per shard
    kvpoll:{prod}:failed            the failures alone, a stream with the feed's ids
    kvpoll:{prod}:epoch             the shard's epoch, another after a loss of data, and its last generation
    kvpoll:{prod}:leases            the leases by owner, and the lost incarnations
    kvpoll:{prod}:due               when to check each lease again
    kvpoll:{prod}:owned             the rooms in which leases take part, by incarnation
    kvpoll:{prod}:cleared           rooms that were cleared after a replay had created them, with their generations
    kvpoll:{prod}:refused           how many writes were refused, by outcome
    kvpoll:{prod/3}:room:42         the same with shards > 1
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from redis_kvpoll.validation import MAX_ROOM

ROOM_DIGITS = len(str(MAX_ROOM))
_SETTINGS_KEY = re.compile(rb"kvpoll:\{([A-Za-z0-9._-]{1,64})\}:settings")
_ROOM_KEY = re.compile(rb"kvpoll:\{[^}]+\}:room:([0-9]+)")

_ANY_KEY = re.compile(rb"kvpoll:\{(([A-Za-z0-9._-]{1,64})(?:/[0-9]+)?)\}:([a-z]+)(?::(.*))?")

EVERYTHING = "kvpoll:{*"
"""Matches the keys of every namespace of a server."""
ALL_SETTINGS = "kvpoll:{*}:settings"
"""Matches the settings of every namespace of a server."""


def tag(namespace: str, shards: int, room: int) -> str:
    """Return the hash tag of the shard of ``room``, the same in every process and version.

    It hashes the decimal id by CRC-32 because ids are not always random: SGLang routes by ``room % dp_size``, so the
    rooms of one worker can share a remainder, and a plain modulo would put them all into one shard.
    """
    return namespace if shards == 1 else f"{namespace}/{_shard(room, shards)}"


def positions_by_tag(namespace: str, shards: int, rooms: list[int]) -> dict[str, list[int]]:
    """Return the indexes of each shard's rooms in a list of rooms, for shards > 1."""
    positions: dict[int, list[int]] = defaultdict(list)
    crc32 = zlib.crc32
    for position, room in enumerate(rooms):
        positions[crc32(b"%d" % room) % shards].append(position)  # as _shard, without its call
    return {f"{namespace}/{shard}": found for shard, found in positions.items()}


def _shard(room: int, shards: int) -> int:
    return zlib.crc32(b"%d" % room) % shards


def tags(namespace: str, shards: int) -> list[str]:
    """Return the hash tags of all shards."""
    return [namespace] if shards == 1 else [f"{namespace}/{shard}" for shard in range(shards)]


def home(namespace: str, shards: int) -> str:
    """Return the hash tag of the shard that decides whether a lease has expired."""
    return tags(namespace, shards)[0]


def settings(namespace: str) -> str:
    return f"kvpoll:{{{namespace}}}:settings"


def feed(tag: str) -> str:
    """The change feed of one shard."""
    return f"kvpoll:{{{tag}}}:feed"


def failed(tag: str) -> str:
    """The stream of the failures of one shard, with the ids of its feed."""
    return f"kvpoll:{{{tag}}}:failed"


def epoch(tag: str) -> str:
    """The key whose value changes when a shard has lost its data."""
    return f"kvpoll:{{{tag}}}:epoch"


def leases(tag: str) -> str:
    """The leases that one shard knows, by owner."""
    return f"kvpoll:{{{tag}}}:leases"


def owned(tag: str) -> str:
    """The rooms of one shard in which leases take part, by incarnation, and which lists of rooms belong together."""
    return f"kvpoll:{{{tag}}}:owned"


def due(tag: str) -> str:
    """When to check each lease of one shard again, by owner."""
    return f"kvpoll:{{{tag}}}:due"


def cleared(tag: str) -> str:
    """The rooms of one shard that were cleared after a replay had created them, with their generations."""
    return f"kvpoll:{{{tag}}}:cleared"


def nothing(tag: str) -> str:
    """A key that no script writes: to ask whether a user may use a command, and which node has a shard's slot."""
    return f"kvpoll:{{{tag}}}:nothing"


def refused(tag: str) -> str:
    """How many writes one shard has refused, by outcome."""
    return f"kvpoll:{{{tag}}}:refused"


def rooms(tag: str, rooms: list[int]) -> list[str]:
    """The keys of rooms of one shard."""
    if len(rooms) == 1:
        return [f"kvpoll:{{{tag}}}:room:{rooms[0]}"]  # half the time of the general form
    start = f"kvpoll:{{{tag}}}:room:"
    return [f"{start}{number}" for number in rooms]


def prefixes(tag: str, rooms: list[int]) -> list[str]:
    """The prefix keys of rooms of one shard."""
    start = f"kvpoll:{{{tag}}}:prefix:"
    return [f"{start}{number}" for number in rooms]


def namespace_of(key: bytes) -> str | None:
    """Return the namespace whose settings a key has; None for any other key."""
    match = _SETTINGS_KEY.fullmatch(key)
    return match[1].decode() if match else None


def rooms_pattern(tag: str) -> str:
    """Matches the rooms of one shard, or of all shards for ``prod/*``."""
    return f"kvpoll:{{{tag}}}:room:*"


def patterns(namespaces: Sequence[str]) -> list[str]:
    """Return patterns that match all keys of these namespaces, or of all if there are none, and no others."""
    # A namespace has no special character of patterns and no slash, so the second one matches only its shards.
    names = [name for namespace in namespaces for name in (namespace, f"{namespace}/*")] or ["*"]
    return [f"kvpoll:{{{name}}}:*" for name in names]


def parse_room(digits: bytes) -> int | None:
    """Return the room id in digits, as scripts write it; None for any other form of a number, and for what is none."""
    if not digits.isdigit() or len(digits) > ROOM_DIGITS or (digits < b"1" and digits != b"0"):
        return None
    room = int(digits)
    return room if room <= MAX_ROOM else None


def room_of(key: bytes) -> int | None:
    """Return the room id in a room's key; None for any other key."""
    match = _ROOM_KEY.fullmatch(key)
    return parse_room(match[1]) if match else None


class KeyName(NamedTuple):
    """The parts of a key's name: of which namespace and shard it is, and what."""

    namespace: str
    tag: str
    kind: str
    room: str
    """As it is written; empty for a key that is no room's."""


def parts(key: bytes) -> KeyName | None:
    """Return the parts of a key's name; None for a foreign key."""
    match = _ANY_KEY.fullmatch(key)
    if not match:
        return None
    tag, namespace, kind, room = (part.decode("utf-8", "replace") for part in match.groups(b""))
    return KeyName(namespace, tag, kind, room)
