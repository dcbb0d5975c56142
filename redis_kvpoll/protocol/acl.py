"""The smallest Redis ACL rule that permits everything this library does.

Redis checks the commands inside a script against the user, so they are part of the rule and are read from the scripts
themselves. AUTH needs no permission. The rule uses only syntax that Redis 6.2 and all later servers accept: no category
such as +@read, whose commands differ between servers, and only subcommands that every server has.

To send another plain command: add it to SENT with its purpose.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from redis_kvpoll import validation
from redis_kvpoll.errors import InvalidInputError, printable
from redis_kvpoll.protocol import keys, scripts

SENT = {
    "hello": "redis-py's handshake with RESP3; Redis 6.2 requires the permission, later servers do not",
    "client|setname": "a client with a client_name",
    "select": "a database other than 0",
    "evalsha": "every operation on rooms",
    "eval": "the same, when the server does not have the script yet",
    "hmget": "settings(): reading them without creating the namespace; for an agent, what a shard has lost",
    "scan": "rooms(), counts() and statistics()",
    "exists": "rooms() in a cluster: which node has a slot",
    "xread": "mirror() and wait(): following the feed",
    "xlen": "statistics(): how many entries the feed has",
    "xrange": "tail(), statistics() and a mirror: reading the feed forwards",
    "xrevrange": "history() and tail(): reading the feed backwards",
    "hget": "the epoch of a shard, when another server has taken over",
    "hgetall": "owners() and statistics(): the leases of a shard; how many writes it refused",
    "time": "owners() and statistics(): the age of what they show",
    "zrangebyscore": "the rooms of a lease: to extend their TTL, or to fail them once it is lost",
    "info": "which server it is, on each connection; the maxmemory-policy, to warn of one that evicts live rooms",
    "cluster|slots": "a cluster: which node has which slots",
    "asking": "a cluster: a slot that is being migrated",
    "command": "a cluster: redis-py's RedisCluster sends it when it is created",
    "readonly": "a cluster: a client that reads from replicas",
}
"""Every command that is sent outside of scripts, and its purpose."""

DEFAULT_USER = "kvpoll"
DEFAULT_READER = "kvpoll-read"
"""Another name: a rule replaces that of its user, so by one name the reader's would take the writer's rights away."""
_USER = re.compile(r"[A-Za-z0-9._@+-]{1,64}")


def called(read_only: bool = False) -> frozenset[str]:
    """Return the commands that the scripts call, or those that a store with read_only=True makes them call."""
    names = scripts.READING if read_only else scripts.names()
    found = frozenset(word for name in names for word in scripts.called(scripts.load(name)))
    return frozenset(map(str.lower, found & scripts.READS if read_only else found))


def commands(read_only: bool = False) -> list[str]:
    """Return the commands of the rule: first those in SENT, all of which read, then those that only scripts call."""
    return [*SENT, *sorted(called(read_only) - SENT.keys())]


def rule(namespaces: Sequence[str] = (), read_only: bool = False) -> str:
    """Return the ACL rule for the keys of these namespaces, or of all; of a store that writes, or only reads.

    It resets keys and commands first, so it can be applied to a user that has an older rule. Passwords stay.
    """
    patterns = keys.patterns([validation.namespace(name) for name in dict.fromkeys(namespaces)])
    words = ["resetkeys", "resetchannels", "-@all", *(f"~{pattern}" for pattern in patterns)]
    return " ".join([*words, *(f"+{command}" for command in commands(read_only))])


def user_name(value: Any) -> str:
    """Return a user name that needs no quoting in redis-cli or an aclfile, else raise InvalidInputError."""
    if not isinstance(value, str) or not _USER.fullmatch(value):
        shown = printable(value[:80]) if isinstance(value, str) else type(value).__name__
        raise InvalidInputError(f"a user name is 1 to 64 of A-Z a-z 0-9 . _ @ + -, not {shown!r}")
    return value
