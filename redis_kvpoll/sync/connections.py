"""One server, and our blocking connections to it."""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
from typing import Any

from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.sentinel import SentinelManagedConnection

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.transport.connection_options import IDLE_CLOSED, MAX_IDLE, connection_options, pack, time_limit


class NodePool:
    """One server, and our idle connections to it. ``keep`` must live as long as the node_pool does."""

    def __init__(
        self, connection_class: Any, client_options: dict[str, Any], deadline: float, keep: object = None
    ) -> None:
        self._keep = keep
        self._class = connection_class
        self._options = connection_options(client_options)
        self.limit = time_limit(self._options, deadline)
        """Seconds that a call may take, unless it says otherwise."""
        # fakeredis's cannot: nothing ends its long reads before their time, and in asyncio they outlive the connection.
        self.can_block = not connection_class.__module__.startswith("fakeredis")
        self._idle: list[Any] = []
        self._closed = False
        self.doubtful = False
        """Whether the last try failed: then it may take long to connect."""
        # Sentinel's connection would turn READONLY into a lost connection, and what did not run into what may have.
        sentinel = issubclass(connection_class, SentinelManagedConnection)
        self._read = AbstractConnection.read_response if sentinel else connection_class.read_response

    def twin(self) -> NodePool:
        """The same server, with connections of its own, which ``cut`` can end."""
        return _Cuttable(self._class, self._options, self.limit, self._keep)

    def cut(self) -> None:
        """End the call that is under way; only for a twin."""

    def call(self, effect: Send) -> Any:
        """Send a call over one connection and read its reply."""
        return self.receive(self.send(effect), effect)

    def send(self, effect: Send) -> Any:
        """Send a call; the connection to receive its reply from."""
        try:
            connection = self._connection(effect.timeout, effect.fresh)
        except (RedisError, OSError) as error:
            self.doubtful = True
            self._drop_idle()
            raise NotSent from error
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
            # After an error reply the connection is in effect, unless more replies are to come.
            if isinstance(error, ResponseError) and not isinstance(error, ReadOnlyError) and not effect.then:
                self._give_back(connection)
                raise
            self.drop(connection)
            raise
        self._give_back(connection)
        return reply

    def drop(self, connection: Any) -> None:
        """Close a connection, and the idle ones: what cut it has most likely cut them as well."""
        self.doubtful = True
        connection.disconnect()
        self._drop_idle()

    def close(self) -> None:
        """Close the idle connections, and each that is in use when its call is over."""
        self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        while (connection := self._pop()) is not None:
            connection.disconnect()

    def _connection(self, timeout: float | None, fresh: bool) -> Any:
        """A connection for one call: idle or new. ``timeout`` (seconds) shortens the usual one."""
        if timeout is not None and timeout < self.limit:
            return self._connect(timeout)
        pid = os.getpid()
        while (connection := self._pop()) is not None:
            if connection.pid != pid:
                continue  # the parent's, from before a fork
            if fresh and not _is_open(connection):
                connection.disconnect()
                raise RedisConnectionError(IDLE_CLOSED)
            return connection
        return self._connect(self.limit)

    def _pop(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _give_back(self, connection: Any) -> None:
        """Keep a connection for the next call, unless it was made for a short one."""
        self.doubtful = False
        if len(self._idle) < MAX_IDLE and connection.socket_timeout == self.limit and not self._closed:
            self._idle.append(connection)
        else:
            connection.disconnect()

    def _connect(self, timeout: float) -> Any:
        options = self._options | {"socket_timeout": timeout, "socket_connect_timeout": timeout}
        connection = self._class(**options)
        connection.connect()
        return connection


def readable(connections: list[Any], seconds: float) -> list[Any]:
    """Wait until there is something to read on one of these connections; on which there is."""
    sockets: dict[Any, Any] = {connection: getattr(connection, "_sock", None) for connection in connections}
    found = [connection for connection, sock in sockets.items() if not isinstance(sock, socket.socket)]
    if found:
        return found  # fakeredis has its replies at once; and one that was closed says so when it is read
    poll = select.poll()
    by_number = {sock.fileno(): connection for connection, sock in sockets.items()}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(math.ceil(seconds * 1000))]


class _Cuttable(NodePool):
    """For one thread, which another may wake from a long read."""

    _last: Any = None
    _is_cut = False

    def cut(self) -> None:
        self._is_cut = True
        # The thread that reads from it sees its end, and disconnects it; fakeredis has no socket. TLS is passed by: its
        # state belongs to that thread.
        sock = getattr(self._last, "_sock", None)
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _connection(self, timeout: float | None, fresh: bool) -> Any:
        self._last = super()._connection(timeout, fresh)
        if self._is_cut:
            self._last.disconnect()
            raise RedisConnectionError("cut off")
        return self._last


def _is_open(connection: Any) -> bool:
    """Whether an idle connection is still good. Nothing is due on it, so anything to read means it is not."""
    try:
        return not connection.can_read(0)
    except (RedisError, OSError):
        return False
