"""The blocking connections of a store to one server.

Invariant: a connection is in the pool only when no reply is due on it, and it leads to the newest server.
"""

from __future__ import annotations

import math
import os
import select
import socket
import time
from typing import Any

from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import SentinelManagedConnection

from redis_kvpoll import _fork
from redis_kvpoll.engine.classify import LateReply, NotSent, ServerChanged, ends_connection
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.engine.ready_calls import TAKE_FULL_PATH
from redis_kvpoll.sync.connecting import Connector, shut_down
from redis_kvpoll.transport.connection_kind import ConnectionKind
from redis_kvpoll.transport.connection_options import (
    IDLE_CLOSED,
    MAX_IDLE,
    connection_options,
    count_towards,
    pack,
    time_limit,
)
from redis_kvpoll.transport.server_identity import KnownServer

_MAX_POLL_MS = 2**31 - 1
"""What poll takes: 24 days. No call lasts so long, but a deadline may."""


class NodePool:
    """The idle connections to one server. ``keep`` is kept alive as long as the pool."""

    def __init__(
        self, connection_class: Any, client_options: dict[str, Any], deadline: float, keep: object = None
    ) -> None:
        self._keep = keep
        self._class = connection_class
        self._options = connection_options(client_options)
        self.database = int(self._options.get("db") or 0)
        self.limit = time_limit(self._options, deadline)
        """Seconds for a call that has no timeout of its own."""
        kind = ConnectionKind.of(connection_class, AbstractConnection, SentinelManagedConnection)
        self.can_block, self._is_plain, self._read = kind.can_block, kind.is_plain, kind.read
        self._idle: list[Any] = []
        self.closed = False
        self.last_try_failed = False
        """Then connecting may take long."""
        self._known = KnownServer()
        options = {name: self._options[name] for name in self._options if name != "socket_timeout"}
        self._connector = Connector(connection_class, options, self._known)

    def clone(self) -> NodePool:
        """Return a pool of the same server whose connection ``cut`` can end."""
        return _CuttablePool(self._class, self._options, self.limit, self._keep)

    def cut(self) -> None:
        """End the call in flight; only for a clone."""

    def call(self, effect: Send) -> Any:
        """Send a call over one connection and read its reply."""
        return self.receive(self.send(effect), effect)

    def send(self, effect: Send) -> Any:
        """Send a call; return the connection that its reply comes over. Its timeout includes opening one."""
        until = time.monotonic() + (effect.timeout or self.limit)
        try:
            connection = self._connection(effect)
        except Exception as error:  # a credential provider may raise anything
            self.last_try_failed = True
            self._lost()
            raise NotSent from self._connector.explained(error, until - time.monotonic())
        if effect.server != connection.server and not self._known.may_send(connection, effect):
            self._give_back(connection)
            raise ServerChanged(connection.server)
        try:
            if effect.asking:
                connection.send_command("ASKING")
                self._read(connection)
            effect.begin()
            connection.send_packed_command([pack(words) for words in (effect.words, *effect.then)])
        except BaseException as error:
            self._failed(connection, error)
            raise
        return connection

    def receive(self, connection: Any, effect: Send) -> Any:
        """Read the reply to a call that was sent over this connection."""
        try:
            if effect.timeout is not None and self._is_short(effect) and not readable([connection], effect.timeout):
                raise _OutOfTime(f"no reply within {effect.timeout:.3g} s")
            reply = self._read(connection)
            if effect.then:
                reply = [reply, *(self._read(connection) for _ in effect.then)]
        except BaseException as error:
            self._end(connection, error, bool(effect.then))
            raise
        self._give_back(connection)
        if connection.server != self._known.current:
            raise LateReply
        return reply

    def call_packed(self, packed: bytes, server: bytes | None) -> Any:
        """Send a packed command over an idle connection to ``server`` and return its reply.

        TAKE_FULL_PATH if there is no such connection.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            return TAKE_FULL_PATH
        if connection.pid != _fork.pid:
            return TAKE_FULL_PATH  # a connection of the parent's, from before a fork, is left alone
        if connection.server != server:
            self._give_back(connection)
            return TAKE_FULL_PATH
        try:
            if self._is_plain:
                # As the connection's own methods, in a quarter of their time: _end does the rest that they do.
                sock, sent = connection._sock, 0
                if sock.__class__ is socket.socket:  # not one with TLS; sendall would poll it first
                    sent = os.write(sock.fileno(), packed)
                if sent < len(packed):
                    sock.sendall(packed[sent:])
                if isinstance(reply := connection._parser.read_response(), ResponseError):
                    raise reply
            else:
                connection.send_packed_command((packed,))
                reply = self._read(connection)
        except BaseException as error:
            self._end(connection, error, False)
            raise
        known = self._known
        if connection.losses == known.losses and server == known.current and not self.closed:
            self._idle.append(connection)  # as _give_back, to where it was taken from
            return reply
        self._give_back(connection)
        if server != known.current:
            raise LateReply
        return reply

    def _end(self, connection: Any, error: BaseException, has_more: bool) -> None:
        """Keep or close a connection after an error: after an error reply it is in order, unless more are to come."""
        if isinstance(error, ResponseError) and not ends_connection(error) and not has_more:
            self._give_back(connection)
        else:
            self._failed(connection, error)

    def time_out(self, connection: Any, effect: Send) -> None:
        """Close the connection of a call whose reply did not come in time."""
        self._failed(connection, _OutOfTime() if self._is_short(effect) else RedisTimeoutError())

    def close(self) -> None:
        """Close the idle connections, and each other one at the end of its call."""
        self.closed = True
        self._drop_idle()

    def _failed(self, connection: Any, error: BaseException) -> None:
        """Close a connection. A failure of the server's has most likely hit the idle ones, too."""
        self.last_try_failed = True
        connection.disconnect()
        if isinstance(error, RedisError | OSError) and not isinstance(error, _OutOfTime):
            self._lost()

    def _lost(self) -> None:
        self._known.lost()
        self._drop_idle()

    def _drop_idle(self) -> None:
        while (connection := self._pop()) is not None:
            connection.disconnect()

    def _is_short(self, effect: Send) -> bool:
        """Whether a call waits for a shorter time than a connection does by itself."""
        return effect.timeout is not None and effect.timeout < self.limit

    def _connection(self, effect: Send) -> Any:
        """Return an idle or new connection. The time that a new one takes is no longer in the timeout."""
        while (connection := self._pop()) is not None:
            if connection.pid != _fork.pid:
                continue  # it is the parent's, from before a fork
            if effect.fresh and not _is_open(connection):
                connection.disconnect()
                raise RedisConnectionError(IDLE_CLOSED)
            return connection
        limit = self.limit if effect.timeout is None else min(effect.timeout, self.limit)
        began = time.monotonic()
        connection = self._connector.connect(limit, self.limit)
        count_towards(effect, self.limit, time.monotonic() - began)
        return connection

    def _pop(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _give_back(self, connection: Any) -> None:
        """Keep a connection for the next call."""
        self.last_try_failed = False
        if self._known.is_good(connection) and len(self._idle) < MAX_IDLE and not self.closed:
            self._idle.append(connection)
        else:
            connection.disconnect()


class _OutOfTime(RedisTimeoutError):  # noqa: N818 - internal, never seen by callers
    """The caller has no time left. That says nothing about other connections."""


def readable(connections: list[Any], seconds: float) -> list[Any]:
    """Wait until one of these connections can be read; return those that can."""
    sockets: dict[Any, Any] = {connection: getattr(connection, "_sock", None) for connection in connections}
    found = [connection for connection, sock in sockets.items() if not isinstance(sock, socket.socket)]
    if found:
        return found  # fakeredis has its replies at once; a closed connection raises when it is read
    by_number = {sock.fileno(): connection for connection, sock in sockets.items()}
    if not hasattr(select, "poll"):
        return _readable_one_by_one(by_number, seconds)
    poll = select.poll()
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(min(math.ceil(seconds * 1000), _MAX_POLL_MS))]


def _readable_one_by_one(by_number: dict[int, Any], seconds: float) -> list[Any]:
    """As ``readable`` under eventlet, which has no poll, and whose select wakes a thread for each of several sockets,
    also when it waits for something else by then."""
    until = time.monotonic() + seconds
    turn = seconds if len(by_number) == 1 else min(seconds, 0.001)
    while True:
        found = [by_number[number] for number in by_number if select.select([number], [], [], turn)[0]]
        if found or time.monotonic() >= until:
            return found


class _CuttablePool(NodePool):
    """For one thread, whose blocking read another thread may end."""

    _last: Any = None
    _is_cut = False

    def cut(self) -> None:
        self._is_cut = True
        shut_down(self._last)

    def _connection(self, effect: Send) -> Any:
        self._last = super()._connection(effect)
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
