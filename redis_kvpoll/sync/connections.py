"""The blocking connections of a store to one server.

Invariant: a connection is in the pool only when no reply is due on it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import os
import select
import socket
import ssl
import threading
from queue import Empty, SimpleQueue
from typing import Any

from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import SentinelManagedConnection

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.transport import tls_probe
from redis_kvpoll.transport.connection_options import (
    IDLE_CLOSED,
    MAX_IDLE,
    connection_options,
    opening,
    pack,
    time_limit,
)


class NodePool:
    """The idle connections to one server. ``keep`` is kept alive as long as the pool."""

    def __init__(
        self, connection_class: Any, client_options: dict[str, Any], deadline: float, keep: object = None
    ) -> None:
        self._keep = keep
        self._class = connection_class
        self._options = connection_options(client_options)
        self.limit = time_limit(self._options, deadline)
        """Seconds for a call that has no timeout of its own."""
        # fakeredis cannot: nothing ends its blocking reads early, and in asyncio they outlive the connection.
        self.can_block = not connection_class.__module__.startswith("fakeredis")
        self._idle: list[Any] = []
        self._closed = False
        self._probe_is_due = True
        self.last_try_failed = False
        """Then connecting may take long."""
        # Sentinel's connection turns READONLY, which did not execute, into a lost connection, which may have.
        sentinel = issubclass(connection_class, SentinelManagedConnection)
        self._read = AbstractConnection.read_response if sentinel else connection_class.read_response
        self._may_resolve_names = self.can_block and (sentinel or _is_name(self._options.get("host")))

    def clone(self) -> NodePool:
        """Return a pool of the same server whose connection ``cut`` can end."""
        return _CuttablePool(self._class, self._options, self.limit, self._keep)

    def cut(self) -> None:
        """End the call in flight; only for a clone."""

    def call(self, effect: Send) -> Any:
        """Send a call over one connection and read its reply."""
        return self.receive(self.send(effect), effect)

    def send(self, effect: Send) -> Any:
        """Send a call; return the connection that its reply comes over."""
        try:
            connection = self._connection(effect.timeout, effect.fresh)
        except Exception as error:  # a credential provider may raise anything
            self.last_try_failed = True
            self._drop_idle()
            raise NotSent from self._probed(error, effect.timeout or self.limit)
        try:
            if effect.asking:
                connection.send_command("ASKING")
                self._read(connection)
            connection.send_packed_command([pack(words) for words in (effect.words, *effect.then)])
        except BaseException:
            self.drop(connection)
            raise
        return connection

    def receive(self, connection: Any, effect: Send) -> Any:
        """Read the reply to a call that was sent over this connection."""
        try:
            reply = self._read(connection)
            if effect.then:
                reply = [reply, *(self._read(connection) for _ in effect.then)]
        except BaseException as error:
            # After an error reply the connection is in order, unless more replies are to come.
            if isinstance(error, ResponseError) and not isinstance(error, ReadOnlyError) and not effect.then:
                self._give_back(connection)
                raise
            self.drop(connection)
            raise
        self._give_back(connection)
        return reply

    def drop(self, connection: Any) -> None:
        """Close a connection, and the idle ones: the same failure has most likely hit them."""
        self.last_try_failed = True
        connection.disconnect()
        self._drop_idle()

    def close(self) -> None:
        """Close the idle connections, and each other one at the end of its call."""
        self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        while (connection := self._pop()) is not None:
            connection.disconnect()

    def _connection(self, timeout: float | None, fresh: bool) -> Any:
        """Return an idle or new connection. A ``timeout`` (seconds) below the limit takes a new one."""
        if timeout is not None and timeout < self.limit:
            return self._connect(timeout)
        pid = os.getpid()
        while (connection := self._pop()) is not None:
            if connection.pid != pid:
                continue  # it is the parent's, from before a fork
            if fresh and not _is_open(connection):
                connection.disconnect()
                raise RedisConnectionError(IDLE_CLOSED)
            return connection
        return self._connect(self.limit)

    def _probed(self, error: Exception, seconds: float) -> Exception:
        """Return the error of a failure to connect, or that the server expects TLS. Only a new pool asks, once."""
        if self._probe_is_due and tls_probe.may_expect_tls(error, self._class, self._options):
            self._probe_is_due = False
            return tls_probe.probe(self._options, seconds) or error
        return error

    def _pop(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _give_back(self, connection: Any) -> None:
        """Keep a connection for the next call, unless it has a timeout of its own."""
        self.last_try_failed = False
        if len(self._idle) < MAX_IDLE and connection.socket_timeout == self.limit and not self._closed:
            self._idle.append(connection)
        else:
            connection.disconnect()

    def _connect(self, timeout: float) -> Any:
        options = self._options | {"socket_timeout": timeout, "socket_connect_timeout": timeout}
        connection = self._class(**options)
        if self._may_resolve_names:
            _ConnectingThread(connection).join(timeout)
        else:
            try:
                connection.connect()
            except BaseException:
                connection.disconnect()  # redis-py leaves it open if a credential provider raises
                raise
        self._probe_is_due = False
        return connection


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
        error: BaseException | None = RedisTimeoutError(
            f"no {opening(type(self._connection))} within {seconds:.3g} s (is DNS slow?)"
        )
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


def readable(connections: list[Any], seconds: float) -> list[Any]:
    """Wait until one of these connections can be read; return those that can."""
    sockets: dict[Any, Any] = {connection: getattr(connection, "_sock", None) for connection in connections}
    found = [connection for connection, sock in sockets.items() if not isinstance(sock, socket.socket)]
    if found:
        return found  # fakeredis has its replies at once; a closed connection raises when it is read
    by_number = {sock.fileno(): connection for connection, sock in sockets.items()}
    if not hasattr(select, "poll"):  # eventlet takes it away
        return [by_number[number] for number in select.select([*by_number], [], [], seconds)[0]]
    poll = select.poll()
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(math.ceil(seconds * 1000))]


class _CuttablePool(NodePool):
    """For one thread, whose blocking read another thread may end."""

    _last: Any = None
    _is_cut = False

    def cut(self) -> None:
        self._is_cut = True
        # The reading thread then gets an end of file, and disconnects. fakeredis has no socket. socket.socket's own
        # shutdown passes TLS by, whose state belongs to that thread.
        sock = getattr(self._last, "_sock", None)
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                if isinstance(sock, ssl.SSLSocket):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
                else:
                    sock.shutdown(socket.SHUT_RDWR)

    def _connection(self, timeout: float | None, fresh: bool) -> Any:
        self._last = super()._connection(timeout, fresh)
        if self._is_cut:
            self._last.disconnect()
            raise RedisConnectionError("cut off")
        return self._last


def _is_open(connection: Any) -> bool:
    """Return whether an idle connection is still open. No reply is due, so anything to read means that it is not."""
    try:
        return not connection.can_read(0)
    except (RedisError, OSError):
        return False
