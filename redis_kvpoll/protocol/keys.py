"""Every key name, and nothing else builds one.

The braces are Redis Cluster's hash tag: all keys of one shard live in one slot, so that one script may touch
them together. They are there from the first day, on a single server too, so no key is renamed when a
deployment moves to a cluster.

    kvpoll:{prod}:settings          what all users of the namespace agree on
    kvpoll:{prod}:room:42           one room
    kvpoll:{prod}:prefix:42         its decode prefix length
    kvpoll:{prod}:feed              what changed, entry by entry (a stream a shard)
    kvpoll:{prod}:epoch             whether the shard is still the one it was, and its last generation
    kvpoll:{prod}:leases            who lives, and who is lost
    kvpoll:{prod}:owned             which room was opened under which lease
    kvpoll:{prod/3}:room:42         the same with shards > 1
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict

from redis_kvpoll.validation import MAX_ROOM

_ROOM_KEY = re.compile(rb"kvpoll:\{[^}]+\}:room:(0|[1-9][0-9]{0,18})")

ALL_SETTINGS = "kvpoll:{*}:settings"
"""The pattern that finds every namespace of a server."""


def tag(namespace: str, shards: int, room: int) -> str:
    """The hash tag of the shard that holds ``room``.

    CRC-32 of the decimal id, because ids are not always random: SGLang routes by ``room % dp_size``, so the
    rooms of one worker can share their remainder, and a plain modulo would put them all into one shard.
    """
    return namespace if shards == 1 else f"{namespace}/{_shard(room, shards)}"


def positions_by_tag(namespace: str, shards: int, rooms: list[int]) -> dict[str, list[int]]:
    """Where the rooms of each shard stand in a list of rooms, for shards > 1."""
    positions: dict[int, list[int]] = defaultdict(list)
    for position, room in enumerate(rooms):
        positions[_shard(room, shards)].append(position)
    return {f"{namespace}/{shard}": found for shard, found in positions.items()}


def _shard(room: int, shards: int) -> int:
    return zlib.crc32(b"%d" % room) % shards


def tags(namespace: str, shards: int) -> list[str]:
    """The hash tags of all shards."""
    return [namespace] if shards == 1 else [f"{namespace}/{shard}" for shard in range(shards)]


def settings(namespace: str) -> str:
    return f"kvpoll:{{{namespace}}}:settings"


def feed(tag: str) -> str:
    """The feed of one shard."""
    return f"kvpoll:{{{tag}}}:feed"


def epoch(tag: str) -> str:
    """What tells one shard from the same shard after a loss of all data."""
    return f"kvpoll:{{{tag}}}:epoch"


def leases(tag: str) -> str:
    """The leases of one shard, by owner."""
    return f"kvpoll:{{{tag}}}:leases"


def owned(tag: str) -> str:
    """The rooms of one shard that have an owner, by its incarnation."""
    return f"kvpoll:{{{tag}}}:owned"


def rooms(tag: str, rooms: list[int]) -> list[str]:
    """The keys of many rooms of one shard."""
    if len(rooms) == 1:
        return [f"kvpoll:{{{tag}}}:room:{rooms[0]}"]  # in half the time
    start = f"kvpoll:{{{tag}}}:room:"
    return [f"{start}{number}" for number in rooms]


def prefixes(tag: str, rooms: list[int]) -> list[str]:
    """The prefix keys of many rooms of one shard."""
    start = f"kvpoll:{{{tag}}}:prefix:"
    return [f"{start}{number}" for number in rooms]


def rooms_pattern(tag: str) -> str:
    """The pattern that finds the rooms of one shard, or of every shard for ``prod/*``."""
    return f"kvpoll:{{{tag}}}:room:*"


def patterns(namespace: str | None) -> list[str]:
    """The patterns that take all keys of a namespace, or of all namespaces, and no other's."""
    # Nothing in a name is special in a pattern, and none has a slash: what begins like this belongs to the shards.
    names = ["*"] if namespace is None else [namespace, f"{namespace}/*"]
    return [f"kvpoll:{{{name}}}:*" for name in names]


def room_of(key: bytes) -> int | None:
    """The room id in a room's key; None for a key that no room has (somebody else's, by hand)."""
    match = _ROOM_KEY.fullmatch(key)
    number = int(match[1]) if match else -1
    return number if 0 <= number <= MAX_ROOM else None
