"""What an exception of redis-py means for the call that met it."""

from __future__ import annotations

import enum

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


class Fault(enum.Enum):
    """What is known of a call that did not get its reply."""

    NOT_RUN = "the server did not run it, but may soon"
    LOST = "it was sent; whether it ran is unknown"
    REFUSED = "the server's final word"


_NOT_NOW = (BusyLoadingError, ClusterDownError, MasterDownError, ReadOnlyError, TryAgainError)
_NOT_NOW_CODES = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "NOREPLICAS", "READONLY", "TRYAGAIN")
_HINTS = {
    "WRONGTYPE": "a key of the table holds something else: look at it with redis-cli, and delete it",
    "NOPERM": "this Redis user may not do it: allow it the keys kvpoll:* and the commands that this library sends",
    "NOAUTH": "the server wants a password: put it into the URL",
    "WRONGPASS": "check the user name and the password in the URL",
    "OOM": "the server has reached its maxmemory: give it more, or choose shorter TTLs",
    "MOVED": "this server is part of a cluster: use redis+cluster:// or a RedisCluster client",
    "CROSSSLOT": "this server is part of a cluster: use redis+cluster:// or a RedisCluster client",
}


def judge(error: BaseException) -> Fault:
    """What is known of the call after ``error``."""
    cause = reason(error)
    if isinstance(cause, AuthenticationError | AuthorizationError):
        return Fault.REFUSED
    if isinstance(error, NotSent) or _is_not_now(cause) or _is_not_now(cause.__context__):
        return Fault.NOT_RUN
    if isinstance(cause, RedisConnectionError | RedisTimeoutError | OSError):
        return Fault.LOST
    return Fault.REFUSED


def reason(error: BaseException) -> BaseException:
    """The exception that says what happened."""
    return (error.__cause__ or error) if isinstance(error, NotSent) else error


def hint(error: BaseException) -> str:
    """What to do about a refusal, if that is known."""
    words = str(error).split(maxsplit=1)
    return _HINTS.get(words[0], "") if words else ""


def _is_not_now(error: BaseException | None) -> bool:
    if isinstance(error, _NOT_NOW):
        return True
    if not isinstance(error, ResponseError):
        return False
    text = str(error)
    # Redis 6.2 wraps what happened inside a script: "ERR Error running script … -READONLY …". Only codes of the
    # protocol are looked for; the wording around them differs from server to server.
    return text.startswith(_NOT_NOW_CODES) or "-READONLY " in text
