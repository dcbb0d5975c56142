"""What an exception of redis-py means for the call that met it."""

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


class NotSent(Exception):  # noqa: N818 - a signal between a driver and its flow, never seen outside
    """No connection could be had: the server has seen nothing of the call. The cause says why."""


class Failure(enum.Enum):
    """What is known of a call that did not get its reply."""

    NOT_EXECUTED = "the server did not run it, but may soon"
    UNKNOWN = "it was sent; whether it ran is unknown"
    REJECTED = "the server's final word"


_NOT_NOW = (BusyLoadingError, ClusterDownError, MasterDownError, ReadOnlyError, TryAgainError)
_NOT_NOW_CODES = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "NOREPLICAS", "READONLY", "TRYAGAIN")
_HINTS = {
    "WRONGTYPE": (
        "a key of the table (its feed, its settings, or a room's prefix) is of another type, made by hand: "
        "look at it with redis-cli, and delete it"
    ),
    "NOPERM": "this Redis user may not do it: kvpoll acl prints what it must be allowed, the keys kvpoll:* among it",
    "NOAUTH": "the server wants a password: put it into the URL",
    "WRONGPASS": "check the user name and the password in the URL",
    "OOM": "the server has reached its maxmemory: give it more, or choose shorter TTLs",
    "MOVED": "this server is part of a cluster: use redis+cluster:// or a RedisCluster client",
    "ASK": "this server is part of a cluster: use redis+cluster:// or a RedisCluster client",
    "CROSSSLOT": "this server is part of a cluster: use redis+cluster:// or a RedisCluster client",
}
_UNTRUSTED = "the server's certificate is not one we trust: name its CA in the URL with ?ssl_ca_certs=FILE"

# An error inside a script comes as it is, or (Redis 6.2) inside "ERR Error running script …: -CODE …". Only codes
# of the protocol are looked for; the wording around them differs from server to server.
_WRAPPED_CODE = re.compile(r"(?:^|[ :]|-)(WRONGTYPE|NOPERM|OOM|READONLY|CROSSSLOT)\b")


def classify(error: BaseException) -> Failure:
    """What is known of the call after ``error``."""
    cause = root_cause(error)
    if isinstance(cause, AuthenticationError | AuthorizationError):
        return Failure.REJECTED
    if _is_not_now(cause):
        return Failure.NOT_EXECUTED
    if isinstance(error, NotSent):
        # Who is turned away at the door (HELLO, SELECT, TLS) will be so the next time too.
        return Failure.REJECTED if isinstance(cause, ResponseError) or _is_untrusted(cause) else Failure.NOT_EXECUTED
    if isinstance(cause, RedisConnectionError | RedisTimeoutError | OSError):
        return Failure.UNKNOWN
    return Failure.REJECTED


def root_cause(error: BaseException) -> BaseException:
    """The exception that says what happened."""
    return (error.__cause__ or error) if isinstance(error, NotSent) else error


def describe_rejection(error: BaseException) -> str:
    """A refusal in words: the server's, with its code, and what to do about it if that is known."""
    code = getattr(error, "status_code", None)
    text = str(error)
    if code in _HINTS:
        text = f"{code} {text}"
    elif wrapped := _WRAPPED_CODE.search(text):
        code = wrapped[1]
    hint = _UNTRUSTED if _is_untrusted(error) else _HINTS.get(code or "", "")
    return f"the server refused: {text}" + (f" ({hint})" if hint else "")


def _is_untrusted(error: BaseException) -> bool:
    """Asked only of failures to connect: elsewhere the context may be what the caller is handling just then."""
    return isinstance(error.__context__, ssl.SSLCertVerificationError)


def _is_not_now(error: BaseException | None) -> bool:
    if isinstance(error, _NOT_NOW):
        return True
    if not isinstance(error, ResponseError):
        return False
    text = str(error)
    return text.startswith(_NOT_NOW_CODES) or any(f"-{code} " in text for code in _NOT_NOW_CODES)
