"""Opens blocking connections, each with the identity of its server."""

from __future__ import annotations

import ipaddress
import threading
from queue import Empty, SimpleQueue
from typing import Any

from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from redis_kvpoll.transport import tls_probe
from redis_kvpoll.transport.connection_options import opening, pack
from redis_kvpoll.transport.server_identity import ASK_IDENTITY, KnownServer


class Connector:
    """Opens connections to one endpoint. ``known`` is what they have found there."""

    def __init__(self, connection_class: Any, options: dict[str, Any], known: KnownServer, is_looked_up: bool) -> None:
        self._class = connection_class
        self._options = options
        self._known = known
        self._may_resolve_names = is_looked_up or _is_name(options.get("host"))
        self._asks = not connection_class.__module__.startswith("fakeredis")  # it has no INFO
        self._probe_is_due = True

    def connect(self, timeout: float, limit: float) -> Any:
        """Open a connection within ``timeout`` seconds. Its reads may take ``limit`` seconds."""
        before = self._known.snapshot()
        connection = self._class(**self._options, socket_timeout=timeout, socket_connect_timeout=timeout)
        if self._may_resolve_names:
            _ConnectingThread(connection).join(timeout)
        try:
            if not self._may_resolve_names:
                connection.connect()
            self._known.admit(connection, before, _ask(connection) if self._asks else [])
        except BaseException:
            connection.disconnect()  # redis-py leaves it open if a credential provider raises
            raise
        self._probe_is_due = False
        if timeout != limit:
            connection.socket_timeout = limit
            if settimeout := getattr(getattr(connection, "_sock", None), "settimeout", None):  # not fakeredis'
                settimeout(limit)
        return connection

    def explained(self, error: Exception, seconds: float) -> Exception:
        """Return the error of ``connect``, or that the server expects TLS. Only a new connector asks, once."""
        if self._probe_is_due and tls_probe.may_expect_tls(error, self._class, self._options):
            self._probe_is_due = False
            return tls_probe.probe(self._options, seconds) or error
        return error


def _ask(connection: Any) -> list[Any]:
    """Return the replies to ASK_IDENTITY, errors included."""
    replies: list[Any] = []
    connection.send_packed_command([pack(words) for words in ASK_IDENTITY])
    for _ in ASK_IDENTITY:
        try:
            replies.append(connection.read_response())
        except ResponseError as denied:
            replies.append(denied)
    return replies


class _ConnectingThread:
    """Connects in a thread of its own, because a DNS look-up takes no timeout.

    A thread that is left behind ends with its look-up, and closes what it has opened.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._is_left = False
        self._outcome: SimpleQueue[BaseException | None] = SimpleQueue()
        threading.Thread(target=self._connect, name="kvpoll-connect", daemon=True).start()

    def join(self, seconds: float) -> None:
        """Wait until the connection is open, or raise what kept it from that."""
        what = opening(type(self._connection))
        error: BaseException | None = RedisTimeoutError(f"no {what} within {seconds:.3g} s (is DNS slow?)")
        try:
            error = self._outcome.get(timeout=seconds)
        except Empty:
            pass
        finally:
            with self._lock:
                self._is_left = error is not None
                if self._is_left and not self._outcome.empty():
                    self._connection.disconnect()  # it was opened just now
        if error is not None:
            raise error

    def _connect(self) -> None:
        error: BaseException | None = None
        try:
            self._connection.connect()
        except BaseException as caught:
            error = caught
        with self._lock:
            self._outcome.put(error)
            if self._is_left or error is not None:
                self._connection.disconnect()


def _is_name(host: Any) -> bool:
    """Return whether a host must be looked up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return bool(host)
    return False
