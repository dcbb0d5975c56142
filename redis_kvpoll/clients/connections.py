"""One server, and our blocking connections to it."""

from __future__ import annotations

import os
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from redis_kvpoll.clients.endpoint import IDLE_CLOSED, MAX_IDLE, connection_options, pack, time_limit
from redis_kvpoll.faults import NotSent
from redis_kvpoll.steps import Send


class Endpoint:
    """One server, and our idle connections to it."""

    def __init__(self, connection_class: Any, client_options: dict[str, Any], deadline: float) -> None:
        self._class = connection_class
        self._options = connection_options(client_options)
        self.limit = time_limit(self._options, deadline)
        self._idle: list[Any] = []

    def call(self, step: Send) -> Any:
        """Send a call over one connection and read its reply."""
        try:
            connection = self._connection(step.timeout, step.fresh)
        except (RedisError, OSError) as error:
            self.close()
            raise NotSent from error
        try:
            if step.asking:
                connection.send_command("ASKING")
                connection.read_response()
            connection.send_packed_command([pack(step.words)])
            reply = connection.read_response()
        except ResponseError:
            self._give_back(connection)
            raise
        except BaseException:
            # What cut this connection has most likely cut the idle ones as well.
            connection.disconnect()
            self.close()
            raise
        self._give_back(connection)
        return reply

    def close(self) -> None:
        """Close the idle connections."""
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
        if len(self._idle) < MAX_IDLE and connection.socket_timeout == self.limit:
            self._idle.append(connection)
        else:
            connection.disconnect()

    def _connect(self, timeout: float) -> Any:
        options = self._options | {"socket_timeout": timeout, "socket_connect_timeout": timeout}
        connection = self._class(**options)
        connection.connect()
        return connection


def _is_open(connection: Any) -> bool:
    """Whether an idle connection is still good. Nothing is due on it, so anything to read means it is not."""
    try:
        return not connection.can_read(0)
    except (RedisError, OSError):
        return False
