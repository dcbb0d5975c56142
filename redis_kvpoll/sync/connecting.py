"""Opens blocking connections, each with the identity of its server."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from queue import Empty, SimpleQueue
from threading import get_ident
from typing import Any

from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from redis_kvpoll import _fork
from redis_kvpoll.transport import tls_probe
from redis_kvpoll.transport.connection_kind import is_fake
from redis_kvpoll.transport.connection_options import opening, pack
from redis_kvpoll.transport.server_identity import ASK_IDENTITY, KnownServer

_opening_threads: set[tuple[int, int]] = set()
"""Each as (process, thread): a child of ``fork`` has a copy, and its own threads soon get the same numbers."""


def is_opening(thread: int) -> bool:
    """Whether a thread opens a connection for another one, which waits for it and may have its batch in flight."""
    return (_fork.pid, thread) in _opening_threads


class Connector:
    """Opens connections to one endpoint. ``known`` is what they have found there."""

    def __init__(self, connection_class: Any, options: dict[str, Any], known: KnownServer) -> None:
        self._class = connection_class
        self._options = dict(options)
        self._connect_timeout: float | None = self._options.pop("socket_connect_timeout", None)
        """For one address. A host name may have several, the first of which may be dead."""
        self._known = known
        self._is_fake = is_fake(connection_class)
        self._probe_is_due = True

    def connect(self, timeout: float, limit: float) -> Any:
        """Open a connection within ``timeout`` seconds. Its reads may take ``limit`` seconds."""
        before = self._known.snapshot()
        of_address = min(self._connect_timeout or timeout, timeout)
        connection = self._class(**self._options, socket_timeout=timeout, socket_connect_timeout=of_address)
        replies = [] if self._is_fake else _Opening(connection).join(timeout)
        try:
            if self._is_fake:
                connection.connect()
            self._known.admit(connection, before, replies)
        except BaseException:
            connection.disconnect()
            raise
        self._probe_is_due = False
        if timeout != limit:
            connection.socket_timeout = limit
            if settimeout := getattr(getattr(connection, "_sock", None), "settimeout", None):  # not fakeredis'
                settimeout(limit)
        return connection

    def explained(self, error: Exception, seconds: float) -> Exception:
        """Return the error of ``connect``, or that the server expects TLS. Only a new connector asks, once."""
        if self._probe_is_due and seconds > 0 and tls_probe.may_expect_tls(error, self._class, self._options):
            self._probe_is_due = False
            return tls_probe.probe(self._options, seconds) or error
        return error


def shut_down(connection: Any) -> None:
    """End the reads of a connection that another thread uses: it gets an end of file, and closes the connection.

    Closed here, the number of its socket could be another's by the time at which that thread reads again.
    """
    sock = getattr(connection, "_sock", None)
    if isinstance(sock, socket.socket):  # fakeredis has none
        with contextlib.suppress(OSError):
            # socket.socket's own shutdown passes TLS by, whose state belongs to that thread.
            if isinstance(sock, ssl.SSLSocket):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            else:
                sock.shutdown(socket.SHUT_RDWR)


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


class _Opening:
    """Opens a connection in a thread of its own, because nothing else limits the whole: a DNS look-up takes no timeout,
    and each read of a handshake may take all of one.

    A thread that is left behind closes what it has opened.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._is_left = False
        self._outcome: SimpleQueue[list[Any] | BaseException] = SimpleQueue()
        try:
            threading.Thread(target=self._open, name="kvpoll-connect", daemon=True).start()
        except RuntimeError:  # no thread starts any more when the process ends
            self._open()

    def join(self, seconds: float) -> list[Any]:
        """Wait until the connection is open. Returns its replies to ASK_IDENTITY, or raises what kept it from them."""
        what = f"no {opening(type(self._connection))} within {seconds:.3g} s (the server or DNS is slow)"
        outcome: list[Any] | BaseException = RedisTimeoutError(what)
        try:
            outcome = self._outcome.get(timeout=seconds)
        except Empty:
            pass
        finally:
            with self._lock:
                self._is_left = isinstance(outcome, BaseException)
                if self._is_left and self._outcome.empty():
                    shut_down(self._connection)
                elif self._is_left:
                    self._connection.disconnect()  # it was opened just now
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _open(self) -> None:
        outcome: list[Any] | BaseException
        me = _fork.pid, get_ident()
        try:
            _opening_threads.add(me)
            self._connection.connect()
            outcome = _ask(self._connection)
        except BaseException as caught:
            outcome = caught
        finally:
            _opening_threads.discard(me)
        with self._lock:
            self._outcome.put(outcome)
            if self._is_left or isinstance(outcome, BaseException):
                self._connection.disconnect()
