"""What the blocking and the asyncio stores have in common: how our own connections are made, and a command packed.

We take connections of our own, made to the settings of the client that the user gave us, rather than going
through the client, for two reasons. A client repeats calls by itself, so a clear could run twice, against our
promise, and turning that off would change the user's object. And a connection that stays with us saves the
client's pool book-keeping: a quarter of the time of a call.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from redis_kvpoll import validation
from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.transport.urls import Target

logger = logging.getLogger("redis_kvpoll")


class WithPool(Protocol):
    """A client of redis-py, blocking or not."""

    connection_pool: Any


C = TypeVar("C", bound=WithPool)

MAX_IDLE = 16
"""Connections to one server that are kept. Threads that need more open them and close them again; tasks wait."""

IDLE_CLOSED = "the server had closed an idle connection"

# What a client sets for connections that its own pool watches over, and what makes redis-py send or repeat more
# than we asked for.
_NOT_OURS = (
    "maint_notifications_pool_handler",
    "maint_notifications_config",
    "oss_cluster_maint_notifications_handler",
    "health_check_interval",
    "retry_on_timeout",
    "retry_on_error",
)
_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument '(\w+)'")


def connection_options(client_options: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments for a connection of ours, from a client's."""
    options = {key: value for key, value in client_options.items() if key not in _NOT_OURS}
    # Replies are decoded by us, whatever the client is set to.
    options |= {"retry": Retry(NoBackoff(), 0), "decode_responses": False, "encoding": "utf-8"}
    # CLIENT SETINFO would tell the server the name of redis-py with every connection, in two round trips. Redis 7.0
    # does not know it, so that no rule of an ACL can allow it on all servers; and what is denied fills the ACL log.
    options["driver_info"] = None
    return options


def time_limit(options: dict[str, Any], deadline: float) -> float:
    """Seconds for one try: the client's own socket_timeout, but never above the deadline."""
    own = options.get("socket_timeout")
    return deadline if own is None else min(validation.seconds(own, "socket_timeout"), deadline)


def pack(words: Sequence[str]) -> bytes:
    """A command as it goes over the wire.

    Our words are all short texts, so one join is enough. That takes half the time of redis-py's packer with hiredis
    and a fifth of the one without, which its asyncio connections always use.
    """
    text = "".join([f"${len(word)}\r\n{word}\r\n" for word in words])
    if text.isascii():
        return f"*{len(words)}\r\n{text}".encode()
    # Lengths are bytes. Only a reason has others than ASCII.
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded])


def sentinel_options(target: Target, deadline: float) -> dict[str, Any]:
    """The keyword arguments for clients of the Sentinels: asking all of them in vain takes half the deadline."""
    return {
        "socket_timeout": deadline / (2 * len(target.hosts)),
        "retry": Retry(NoBackoff(), 0),
        **target.sentinel_options,
    }


@contextmanager
def options_of(target: Target) -> Iterator[None]:
    """Turn redis-py's complaints about a URL's options into ours, before anything is opened."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, RedisError) as error:
        unknown = _UNKNOWN_OPTION.search(str(error))
        what = f"redis-py has no option {unknown[1]!r}" if unknown else str(error)
        raise InvalidInputError(f"URL {target.shown}: {what}") from None


def server_options(target: Target) -> dict[str, Any]:
    """redis-py's keyword arguments for a client to one server."""
    options = dict(target.options)
    if path := options.pop("path", None):
        options["unix_socket_path"] = path
    return options


def checked_client(target: Target, make: Callable[[], C]) -> C:
    """The client that ``make`` makes, once it is known that its connections take the URL's options."""
    with options_of(target):
        client = make()
        pool: Any = client.connection_pool
        pool.connection_class(**connection_options(pool.connection_kwargs))
    return client


def cluster_connection(target: Target, module: Any) -> tuple[Any, dict[str, Any]]:
    """The class and the options of connections to the nodes of a cluster; ``module`` is redis or redis.asyncio."""
    options = dict(target.options)
    connection_class = module.SSLConnection if options.pop("ssl", False) else module.Connection
    with options_of(target):
        connection_class(**connection_options(options))
    return connection_class, options


def wrong_client(client: Any, store: str, takes: str, other: str) -> InvalidInputError:
    """The error for a client of another kind; most often it is the other world's."""
    return InvalidInputError(
        f"{store} takes a {takes}, not {type(client).__module__}.{type(client).__name__} (is it one for {other}?)"
    )


def in_memory_redis() -> Any:
    """The module fakeredis, which runs memory://; logs that the table is visible to one store only.

    Raises:
        InvalidInputError: fakeredis or its Lua is not installed.
    """
    try:
        import fakeredis  # takes as long to import as everything else
        import lupa  # noqa: F401 - without it fakeredis refuses every script
    except ModuleNotFoundError as error:
        raise InvalidInputError(f"memory:// needs {error.name}: pip install 'redis-kvpoll[memory]'") from None
    logger.warning("memory:// keeps the table inside this one store: no other store or process can see it")
    return fakeredis
