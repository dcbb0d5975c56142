"""The smallest Redis user that can do all that this library does, as a rule of Redis's access control (ACL).

What a script calls is checked against the user as if it were sent, so that is a part of the rule; it is read from the
scripts themselves. AUTH needs no permission.

Rules are written in the words that Redis 6.2 and all later servers take: no category such as +@read, which is another
set of commands on each of them, and of a subcommand only those that all of them have.
"""

from __future__ import annotations

import re
from typing import Any

from redis_kvpoll import validation
from redis_kvpoll.errors import InvalidInputError, printable
from redis_kvpoll.protocol import keys, scripts

SENT = {
    "hello": "redis-py's greeting, in protocol 3; Redis 6.2 wants a permission for it, later servers do not",
    "client|setname": "a client that was given a client_name",
    "select": "another database than 0",
    "evalsha": "every operation on rooms",
    "eval": "the same, when the server does not know the script yet",
    "hmget": "a look at the settings that does not begin a namespace",
    "scan": "rooms(), and what rests on it",
    "exists": "rooms() in a cluster: which node has a slot",
    "xread": "mirror() and wait(): following the feed",
    "xrange": "tail() and a mirror: reading the feed on",
    "xrevrange": "history() and tail(): reading the feed backwards",
    "hget": "the epoch of a shard, after a connection was lost",
    "hgetall": "owners(): the leases of a shard",
    "time": "owners(): how old they are",
    "zrangebyscore": "the rooms of a lease: to keep them alive, or to fail them once it is lost",
    "info": "which server it is, after a lost connection; the maxmemory-policy, to warn of one that drops live rooms",
    "cluster|slots": "a cluster: which node has which slots",
    "asking": "a cluster: a slot that is on its way",
    "command": "a cluster: redis-py's RedisCluster, over which a store may be made, asks for it when it is made",
    "readonly": "a cluster's client that reads from replicas",
}
"""Every command that is sent by itself, and what for."""

DEFAULT_USER = "kvpoll"
_CALLED = re.compile(r"redis\.p?call\(\s*['\"](\w+)['\"]")
_COMMENT = re.compile(r"--[^\n]*")
_USER = re.compile(r"[A-Za-z0-9._@+-]{1,64}")


def called() -> frozenset[str]:
    """Every command that a script calls."""
    sources = (_COMMENT.sub("", scripts.load(name).source) for name in scripts.names())
    return frozenset(word.lower() for source in sources for word in _CALLED.findall(source))


def commands() -> list[str]:
    """Every command of the rule: first what is sent, then what only scripts call."""
    return [*SENT, *sorted(called() - SENT.keys())]


def rule(namespace: str | None = None) -> str:
    """What such a user may do: with the keys of one namespace, or of all.

    It begins by taking everything away, so that it can be given again to a user who has an older one; the user's
    passwords stay as they are.
    """
    patterns = keys.patterns(None if namespace is None else validation.namespace(namespace))
    words = ["resetkeys", "resetchannels", "-@all", *(f"~{pattern}" for pattern in patterns)]
    return " ".join([*words, *(f"+{command}" for command in commands())])


def user_name(value: Any) -> str:
    """A user name that needs no quoting, neither for redis-cli nor in an aclfile."""
    if not isinstance(value, str) or not _USER.fullmatch(value):
        shown = printable(value[:80]) if isinstance(value, str) else type(value).__name__
        raise InvalidInputError(f"a user name is 1 to 64 of A-Z a-z 0-9 . _ @ + -, not {shown!r}")
    return value
