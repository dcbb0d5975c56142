"""Classification of redis-py's exceptions: whether the call was executed, and whether a retry makes sense.

To add a temporary server error: add its code to _TEMPORARY_CODES. What a person is told of an error is in ``remedies``.
"""

from __future__ import annotations

import enum

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    MaxConnectionsError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from redis_kvpoll.engine import remedies
from redis_kvpoll.engine.remedies import ExpectsTLS
from redis_kvpoll.errors import KVPollError, ServerRefusedError, StoreUnavailableError, printable


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


_HANDSHAKE_REJECTED = (
    AuthenticationError,
    AuthorizationError,
    ExpectsTLS,
    InvalidResponse,
    ResponseError,
    UnicodeError,
)
_TEMPORARY = (BusyLoadingError, ClusterDownError, MasterDownError, ReadOnlyError, TryAgainError)
_REFUSALS = (AuthenticationError, AuthorizationError, BusyLoadingError, MaxConnectionsError, ResponseError)
_CHANGED_CODES = ("LOADING", "MASTERDOWN", "NOAUTH", "READONLY")
_TEMPORARY_CODES = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "NOREPLICAS", "READONLY", "TRYAGAIN")
_FULL = "max number of clients"
"""In what a server at its maxclients answers a new connection. redis-py takes only the words of a server outside of a
cluster for a connection that was not made."""
_REMOVED_KEY = "attempted to access a non local key"
"""What a script is told of a key that it has removed, while a cluster moves the slot. A part of it was executed."""


def classify(error: BaseException, failures: int = 0) -> Failure:
    """Return what is known about the call after ``error``, which so many failures preceded."""
    cause = root_cause(error)
    if isinstance(error, NotSent):
        # A rejected handshake (AUTH, HELLO, SELECT, TLS) will be rejected again. Whatever else kept the connection from
        # being made may pass, also what a credential provider raises.
        rejected = isinstance(cause, _HANDSHAKE_REJECTED) or remedies.is_tls_rejected(cause)
        return Failure.REJECTED if rejected and not _is_temporary(cause) else Failure.NOT_EXECUTED
    # A server may take back the authentication of a standing connection: when a token ends, for example. After a
    # failure, the connection is a new one, which sends what credentials there are.
    if _is_temporary(cause) or (remedies.code_of(cause) == "NOAUTH" and not failures):
        return Failure.NOT_EXECUTED
    if isinstance(cause, AuthenticationError | AuthorizationError):
        return Failure.REJECTED
    if isinstance(cause, RedisConnectionError | RedisTimeoutError | OSError) or _REMOVED_KEY in str(cause):
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


def is_refusal(error: BaseException) -> bool:
    """Return whether a server has answered with an error: it is up."""
    return isinstance(root_cause(error), _REFUSALS)


def is_timeout(error: BaseException) -> bool:
    return isinstance(error, RedisTimeoutError | TimeoutError)


def root_cause(error: BaseException) -> BaseException:
    """Return the exception that has the reason: the cause of a NotSent, else ``error``."""
    cause = (error.__cause__ or error) if isinstance(error, NotSent) else error
    # redis-py for asyncio makes a lost connection of whatever a credential provider or a host name raises.
    inner = cause.args[0] if type(cause) is RedisConnectionError and cause.args else None
    return inner if isinstance(inner, Exception) else cause


def describe_rejection(error: BaseException) -> str:
    """Return what the server said, with its code, and a remedy if one is known."""
    remedy = remedies.remedy(error)
    return f"the server refused: {remedies.text_of(error)}" + (f" ({remedy})" if remedy else "")


def explained(operation: str, server: str, error: Exception) -> KVPollError:
    """Return the error of an operation that is tried once, from what kept it from its reply."""
    cause = root_cause(error)
    if classify(error) is Failure.REJECTED:
        return ServerRefusedError(f"{operation}: {printable(describe_rejection(cause))}; server: {server}")
    what = f"no answer from {server}: {printable(remedies.text_of(cause))} ({remedies.remedy(cause)})"
    return StoreUnavailableError(f"{operation}: {what}")


def describe_delay(error: BaseException, within: str) -> str:
    """Return why a call was not executed in time, and a remedy. ``within`` is the time, and the tries."""
    what = "not executed" if remedies.code_of(error) else "no answer"
    last = remedies.text_of(error).rstrip(".")
    return f"{what} within {within}; last: {last}): {remedies.remedy(error)}"


def _is_temporary(error: BaseException | None) -> bool:
    if isinstance(error, _TEMPORARY):
        return True
    return isinstance(error, ResponseError) and (_has_code(error, _TEMPORARY_CODES) or _FULL in str(error))


def _has_code(error: ResponseError, codes: tuple[str, ...]) -> bool:
    """Return whether the server's error has one of these codes, outside or inside a script."""
    return remedies.code_of(error) in codes
