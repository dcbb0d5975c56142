"""Classification of redis-py's exceptions: whether the call was executed, and whether a retry makes sense.

To add a temporary server error: add its code to _TEMPORARY_CODES. To explain a permanent one: add it to _HINTS.
"""

from __future__ import annotations

import enum
import re
import ssl

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError


class NotSent(Exception):  # noqa: N818 - internal signal of a driver to its flow
    """No connection was available, so the call was not sent. The cause has the reason."""


class ServerChanged(NotSent):
    """The connection leads to another server than the one on which the shard was verified. Nothing was sent."""

    def __init__(self, server: bytes) -> None:
        super().__init__("another server has taken over")
        self.server = server
        """The identity of the new one."""


class LateReply(RedisConnectionError):  # noqa: N818 - internal, as NotSent
    """A reply from a server that another has replaced meanwhile. What it says may not hold for the new one."""

    def __init__(self) -> None:
        super().__init__("the reply came from a server that was replaced meanwhile")


class Failure(enum.Enum):
    """What is known about a call without a reply."""

    NOT_EXECUTED = "not executed; a retry may succeed"
    UNKNOWN = "sent; whether it was executed is unknown"
    REJECTED = "rejected; a retry would not help"


_TEMPORARY = (BusyLoadingError, ClusterDownError, MasterDownError, ReadOnlyError, TryAgainError)
_CHANGED_CODES = ("LOADING", "MASTERDOWN", "READONLY")
_TEMPORARY_CODES = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "NOREPLICAS", "READONLY", "TRYAGAIN")
_HINTS = {
    "WRONGTYPE": (
        "a key of the table (its feed, its settings, or a room's prefix) has another type, set by hand: "
        "check it with redis-cli and delete it"
    ),
    "NOPERM": "this Redis user lacks a permission: kvpoll acl prints the rule that it needs, with the keys kvpoll:*",
    "NOAUTH": "the server requires a password: put it into the URL",
    "WRONGPASS": "check the user name and the password in the URL",
    "OOM": "the server has reached its maxmemory: raise it, or choose shorter TTLs",
    "MOVED": "this server is part of a cluster: use redis+cluster:// or a RedisCluster client",
    "ASK": "this server is part of a cluster: use redis+cluster:// or a RedisCluster client",
    "CROSSSLOT": "this server is part of a cluster: use redis+cluster:// or a RedisCluster client",
}
_UNTRUSTED = "the server's certificate is not trusted: name its CA in the URL with ?ssl_ca_certs=FILE"

# An error inside a script arrives unchanged, or (Redis 6.2) wrapped in "ERR Error running script …: -CODE …". Only the
# codes are matched, because the text around them differs between servers.
_WRAPPED_CODE = re.compile(r"(?:^|[ :]|-)(WRONGTYPE|NOPERM|OOM|READONLY|CROSSSLOT)\b")


def classify(error: BaseException) -> Failure:
    """Return what is known about the call after ``error``."""
    cause = root_cause(error)
    if isinstance(cause, AuthenticationError | AuthorizationError):
        return Failure.REJECTED
    if _is_temporary(cause):
        return Failure.NOT_EXECUTED
    if isinstance(error, NotSent):
        # A rejected handshake (HELLO, SELECT, TLS) will be rejected again.
        return Failure.REJECTED if isinstance(cause, ResponseError) or _is_untrusted(cause) else Failure.NOT_EXECUTED
    if isinstance(cause, RedisConnectionError | RedisTimeoutError | OSError):
        return Failure.UNKNOWN
    return Failure.REJECTED


def ends_connection(error: BaseException) -> bool:
    """Return whether the connection is not to be used again, and the next may lead to another server.

    So it is after a lost connection, and where the server is a replica or still loads its data. A server that only did
    not execute a call (BUSY, NOREPLICAS, TRYAGAIN, CLUSTERDOWN) has what it had.
    """
    cause = root_cause(error)
    if isinstance(cause, ResponseError):
        return isinstance(cause, MasterDownError | ReadOnlyError) or _has_code(cause, _CHANGED_CODES)
    return True


def root_cause(error: BaseException) -> BaseException:
    """Return the exception that has the reason: the cause of a NotSent, else ``error``."""
    return (error.__cause__ or error) if isinstance(error, NotSent) else error


def describe_rejection(error: BaseException) -> str:
    """Return the server's error with its code, and a remedy if one is known."""
    code = getattr(error, "status_code", None)
    text = str(error)
    if code in _HINTS:
        text = f"{code} {text}"
    elif wrapped := _WRAPPED_CODE.search(text):
        code = wrapped[1]
    hint = _UNTRUSTED if _is_untrusted(error) else _HINTS.get(code or "", "")
    return f"the server refused: {text}" + (f" ({hint})" if hint else "")


def _is_untrusted(error: BaseException) -> bool:
    """Valid for failures to connect only: elsewhere the context may be an exception that the caller is handling."""
    return isinstance(error.__context__, ssl.SSLCertVerificationError)


def _is_temporary(error: BaseException | None) -> bool:
    if isinstance(error, _TEMPORARY):
        return True
    return isinstance(error, ResponseError) and _has_code(error, _TEMPORARY_CODES)


def _has_code(error: ResponseError, codes: tuple[str, ...]) -> bool:
    """Return whether the server's error has one of these codes, outside or inside a script."""
    text = str(error)
    return text.startswith(codes) or any(f"-{code} " in text for code in codes)
