"""The asyncio connections of a store to one server.

Invariant: a connection is in the pool only when no reply is due on it.
"""

from __future__ import annotations

import asyncio
import select
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelManagedConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

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


class AsyncNodePool:
    """The connections to one server: at most MAX_IDLE; further calls wait for one of them.

    ``keep`` is kept alive as long as the pool.
    """

    def __init__(
        self, connection_class: Any, client_options: dict[str, Any], deadline: float, keep: object = None
    ) -> None:
        self._keep = keep
        self._class = connection_class
        self._deadline = deadline
        self.limit = time_limit(client_options, deadline)
        """Seconds for a call that has no timeout of its own."""
        # fakeredis cannot: nothing ends its blocking reads early, and in asyncio they outlive the connection.
        self.can_block = not connection_class.__module__.startswith("fakeredis")
        # The timeout is set around a whole call, in _talk; one inside each send and read would cost more.
        self._options = connection_options(client_options) | {"socket_timeout": None, "socket_connect_timeout": None}
        self._idle: list[Any] = []
        self._probe_is_due = True
        self._free = asyncio.Semaphore(MAX_IDLE)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        # Sentinel's connection turns READONLY, which did not execute, into a lost connection, which may have.
        sentinel = issubclass(connection_class, SentinelManagedConnection)
        self._read = AbstractConnection.read_response if sentinel else connection_class.read_response

    def clone(self) -> AsyncNodePool:
        """Return a pool of the same server."""
        return AsyncNodePool(self._class, self._options, self.limit, self._keep)

    async def call(self, effect: Send) -> Any:
        """Send a call over one connection and read its reply."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Connections end with their event loop; another loop (a second asyncio.run) gets its own.
            self._loop, self._idle, self._free = loop, [], asyncio.Semaphore(MAX_IDLE)
        free, left = self._free, effect.timeout or self._deadline
        if free.locked():
            end = loop.time() + left
            try:
                async with asyncio.timeout(left):
                    await free.acquire()
            except TimeoutError:
                raise NotSent from TimeoutError(f"all {MAX_IDLE} connections of this store were busy")
            left = max(0.001, end - loop.time())  # the wait counts towards the timeout
        else:
            await free.acquire()
        try:
            return await self._talk(effect, min(left, self.limit))
        finally:
            free.release()

    async def close(self) -> None:
        """Close the idle connections."""
        self._closed = True
        if self._loop is asyncio.get_running_loop():
            while self._idle:
                await self._idle.pop().disconnect()

    async def _talk(self, effect: Send, limit: float) -> Any:
        connection = None
        try:
            async with asyncio.timeout(limit):
                connection = await self._connection(effect.fresh)
                if effect.asking:
                    await connection.send_command("ASKING")
                    await self._read(connection)
                packed = pack(effect.words)
                if effect.then:
                    packed = b"".join([packed, *map(pack, effect.then)])
                await connection.send_packed_command(packed)
                reply = await self._read(connection)
                if effect.then:
                    reply = [reply, *[await self._read(connection) for _ in effect.then]]
        except BaseException as error:
            rejected = isinstance(error, ResponseError) and not isinstance(error, ReadOnlyError)
            # After an error reply the connection is in order, unless more replies are to come.
            if connection is not None and rejected and not effect.then:
                await self._give_back(connection)
                raise
            # The failure has most likely hit the idle connections, too; a cancellation has not.
            broken = [] if isinstance(error, asyncio.CancelledError) else list(self._idle)
            for closed in [*([] if connection is None else [connection]), *broken]:
                await closed.disconnect(nowait=True)
            if broken:
                self._idle.clear()
            if type(error) is TimeoutError:
                error = TimeoutError(f"no {'reply' if connection else opening(self._class)} within {limit:.3g} s")
            if connection is None and isinstance(error, Exception):  # a credential provider may raise anything
                raise NotSent from await self._probed(error, limit)
            raise error from None
        await self._give_back(connection)
        return reply

    async def _probed(self, error: Exception, seconds: float) -> Exception:
        """Return the error of a failure to connect, or that the server expects TLS. Only a new pool asks, once."""
        if self._probe_is_due and tls_probe.may_expect_tls(error, self._class, self._options):
            self._probe_is_due = False
            return await asyncio.to_thread(tls_probe.probe, self._options, seconds) or error
        return error

    async def _give_back(self, connection: Any) -> None:
        if self._closed:
            await connection.disconnect()
        else:
            self._idle.append(connection)

    async def _connection(self, fresh: bool) -> Any:
        if self._idle:
            connection = self._idle.pop()
            if not fresh or await _is_open(connection):
                return connection
            await connection.disconnect(nowait=True)
            raise RedisConnectionError(IDLE_CLOSED)
        connection = self._class(**self._options)
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)  # redis-py leaves it open if a credential provider raises
            raise
        self._probe_is_due = False
        return connection


async def _is_open(connection: Any) -> bool:
    """Return whether an idle connection is still open. No reply is due, so anything to read means that it is not."""
    try:
        if await connection.can_read():
            return False
        # redis-py sees only what the event loop has read: after a busy period, or between two runs, more may be there.
        writer: Any = getattr(connection, "_writer", None)
        if hasattr(writer, "get_extra_info"):
            poll = select.poll()
            poll.register(writer.get_extra_info("socket"), select.POLLIN)
            return not poll.poll(0)
    except (RedisError, OSError, ValueError):
        return False
    return True
