"""The options of a store's own connections, and how a command is packed.

A store opens its own connections, with the options of the user's client, for two reasons. A client retries by itself,
so a clear could run twice; to turn that off would change the user's object. And the client's pool takes a quarter of
the time of a call.
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
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.engine.remedies import TLS_TIMEOUT
from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.transport.connection_kind import is_fake
from redis_kvpoll.transport.urls import Target

logger = logging.getLogger("redis_kvpoll")


class WithPool(Protocol):
    """A client of redis-py, blocking or asyncio."""

    connection_pool: Any


C = TypeVar("C", bound=WithPool)

MAX_IDLE = 16
"""Connections to one server that are kept. Threads that need more open and close them. Tasks wait, and so do
the calls of one batch to many shards."""

_IGNORED = 0.1
"""The part of a timeout that may pass before the call for nothing, so that the connection's own timeout is used."""

IDLE_CLOSED = "the server had closed an idle connection"

# Options of the client's own pool, and options that make redis-py send or repeat more than it is asked to.
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
    """Return the keyword arguments for a connection of our own, from a client's."""
    options = {key: value for key, value in client_options.items() if key not in _NOT_OURS}
    # We decode the replies, whatever the client is set to.
    options |= {"retry": Retry(NoBackoff(), 0), "decode_responses": False, "encoding": "utf-8"}
    # CLIENT SETINFO would send the name of redis-py over every connection, in two round trips. Redis 7.0 does not know
    # it, so no ACL rule can allow it on all servers; and each denial fills the ACL log.
    options["driver_info"] = None
    return options


def opening(connection_class: Any) -> str:
    """Return what had not been done when the time for connecting ended, for the error."""
    return f"connection with a {TLS_TIMEOUT}" if "SSL" in connection_class.__name__ else "connection"


def time_limit(options: dict[str, Any], deadline: float) -> float:
    """Return the seconds for one attempt: the client's own socket_timeout, but never more than the deadline."""
    own = options.get("socket_timeout")
    return deadline if own is None else min(validation.seconds(own, "socket_timeout"), deadline)


def count_towards(effect: Send, limit: float, took: float) -> None:
    """Subtract from a call's timeout, which is ``limit`` at most, the seconds that were spent on it before."""
    limit = min(effect.timeout or limit, limit)
    if took > _IGNORED * limit:
        effect.timeout = max(0.001, limit - took)


def pack(words: Sequence[str]) -> bytes:
    """Return a command as it goes over the wire.

    All words are short texts, so one join is enough. It takes half the time of redis-py's packer with hiredis, and a
    fifth of the one without, which its asyncio connections always use.
    """
    text = "".join([f"${len(word)}\r\n{word}\r\n" for word in words])
    if text.isascii():
        return f"*{len(words)}\r\n{text}".encode()
    # Lengths are in bytes. Only a reason has non-ASCII characters.
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded])


def sentinel_options(target: Target, deadline: float) -> dict[str, Any]:
    """Return the keyword arguments for clients of the Sentinels. If all are down, noticing takes half the deadline."""
    return {
        "socket_timeout": deadline / (2 * len(target.hosts)),
        "retry": Retry(NoBackoff(), 0),
        **target.sentinel_options,
    }


@contextmanager
def options_of(target: Target) -> Iterator[None]:
    """Turn redis-py's errors about a URL's options into ours, before anything is opened."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, RedisError) as error:
        unknown = _UNKNOWN_OPTION.search(str(error))
        what = f"redis-py has no option {unknown[1]!r}" if unknown else str(error)
        raise InvalidInputError(f"URL {target.shown}: {what}") from None


def server_options(target: Target) -> dict[str, Any]:
    """Return redis-py's keyword arguments for a client of one server."""
    options = dict(target.options)
    if path := options.pop("path", None):
        options["unix_socket_path"] = path
    return options


def checked_client(target: Target, make: Callable[[], C]) -> C:
    """Return the client of ``make``, after a check that its connections take the URL's options."""
    with options_of(target):
        client = make()
        pool: Any = client.connection_pool
        pool.connection_class(**connection_options(pool.connection_kwargs))
    return client


def cluster_connection(target: Target, module: Any) -> tuple[Any, dict[str, Any]]:
    """Return the class and options of connections to a cluster's nodes; ``module`` is redis or redis.asyncio."""
    options = dict(target.options)
    connection_class = module.SSLConnection if options.pop("ssl", False) else module.Connection
    with options_of(target):
        connection_class(**connection_options(options))
    return connection_class, options


def shown_client(client: Any, nodes: Sequence[tuple[str, int]] = ()) -> str:
    """Return a client's name for messages, with the address of its server or the ``nodes`` of its cluster."""
    pool = getattr(client, "connection_pool", None)
    options = getattr(pool, "connection_kwargs", {})
    where = ",".join(f"{host}:{port}" for host, port in sorted(nodes))
    if service := getattr(pool, "service_name", None):
        where = f"Sentinel's {service!r}"
    elif "path" in options:
        where = options["path"]
    elif pool is not None and not is_fake(pool.connection_class):
        where = f"{options.get('host')}:{options.get('port')}"
    return f"a {type(client).__name__} client" + (f" of {where}" if where else "")


def wrong_client(client: Any, store: str, takes: str, other: str) -> InvalidInputError:
    """Return the error for a client of another kind; most often it is the blocking or asyncio counterpart."""
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
