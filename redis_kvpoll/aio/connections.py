"""One server, and our asyncio connections to it. The same as ``connections``, awaited."""

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
from redis_kvpoll.transport.connection_options import IDLE_CLOSED, MAX_IDLE, connection_options, pack, time_limit


class AsyncNodePool:
    """One server, and our connections to it: at most MAX_IDLE, for which calls wait in line.

    ``keep`` must live as long as the node_pool does.
    """

    def __init__(
        self, connection_class: Any, client_options: dict[str, Any], deadline: float, keep: object = None
    ) -> None:
        self._keep = keep
        self._class = connection_class
        self._deadline = deadline
        self.limit = time_limit(client_options, deadline)
        """Seconds that a call may take, unless it says otherwise."""
        # fakeredis's cannot: nothing ends its long reads before their time, and in asyncio they outlive the connection.
        self.can_block = not connection_class.__module__.startswith("fakeredis")
        # The time limit is set around a whole call, here; one inside each send and read would cost more.
        self._options = connection_options(client_options) | {"socket_timeout": None, "socket_connect_timeout": None}
        self._idle: list[Any] = []
        self._places = asyncio.Semaphore(MAX_IDLE)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        # Sentinel's connection would turn READONLY into a lost connection, and what did not run into what may have.
        sentinel = issubclass(connection_class, SentinelManagedConnection)
        self._read = AbstractConnection.read_response if sentinel else connection_class.read_response

    def twin(self) -> AsyncNodePool:
        """The same server, with connections of its own."""
        return AsyncNodePool(self._class, self._options, self.limit, self._keep)

    async def call(self, effect: Send) -> Any:
        """Send a call over one connection and read its reply."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Connections live and die with their event loop; another one (a second asyncio.run) starts afresh.
            self._loop, self._idle, self._places = loop, [], asyncio.Semaphore(MAX_IDLE)
        places, left = self._places, effect.timeout or self._deadline
        if places.locked():
            end = loop.time() + left
            try:
                async with asyncio.timeout(left):
                    await places.acquire()
            except TimeoutError:
                raise NotSent from TimeoutError(f"all {MAX_IDLE} connections of this store were busy")
            left = max(0.001, end - loop.time())  # standing in line was a part of it
        else:
            await places.acquire()
        try:
            return await self._talk(effect, min(left, self.limit))
        finally:
            places.release()

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
            refused = isinstance(error, ResponseError) and not isinstance(error, ReadOnlyError)
            # After an error reply the connection is in effect, unless more replies are to come.
            if connection is not None and refused and not effect.then:
                await self._give_back(connection)
                raise
            # What cut this connection has most likely cut the idle ones as well; a caller who gave up has not.
            gone = [] if isinstance(error, asyncio.CancelledError) else list(self._idle)
            for cut in [*([] if connection is None else [connection]), *gone]:
                await cut.disconnect(nowait=True)
            if gone:
                self._idle.clear()
            if type(error) is TimeoutError:
                error = TimeoutError(f"no {'reply' if connection else 'connection'} within {limit:.3g} s")
            if connection is None and isinstance(error, RedisError | OSError):
                raise NotSent from error
            raise error from None
        await self._give_back(connection)
        return reply

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
        await connection.connect()
        return connection


async def _is_open(connection: Any) -> bool:
    """Whether an idle connection is still good. Nothing is due on it, so anything to read means it is not."""
    try:
        if await connection.can_read():
            return False
        # What came since the event loop last looked, redis-py has not seen: after a busy stretch, or between two runs.
        writer: Any = getattr(connection, "_writer", None)
        if hasattr(writer, "get_extra_info"):
            poll = select.poll()
            poll.register(writer.get_extra_info("socket"), select.POLLIN)
            return not poll.poll(0)
    except (RedisError, OSError, ValueError):
        return False
    return True
