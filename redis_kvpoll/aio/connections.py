"""The asyncio connections of a store to one server.

Invariant: a connection is in the pool only when no reply is due on it, and it leads to the newest server. The
cancellation of a caller closes none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelManagedConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from redis_kvpoll.aio.callers import StartedTask, result_of, retrieve
from redis_kvpoll.aio.connecting import AsyncConnector, close_at_once, is_open
from redis_kvpoll.engine.classify import LateReply, NotSent, ServerChanged, ends_connection
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.transport.connection_kind import ConnectionKind
from redis_kvpoll.transport.connection_options import (
    IDLE_CLOSED,
    MAX_IDLE,
    connection_options,
    opening,
    pack,
    time_limit,
)
from redis_kvpoll.transport.server_identity import KnownServer

T = TypeVar("T")


class AsyncNodePool:
    """The connections to one server: at most MAX_IDLE, beside that of ``call_packed``; more calls wait."""

    def __init__(
        self, connection_class: Any, client_options: dict[str, Any], deadline: float, keep: object = None
    ) -> None:
        self._keep = keep  # alive as long as the pool
        self._class = connection_class
        self._deadline = deadline
        self.limit = time_limit(client_options, deadline)
        """Seconds for a call that has no timeout of its own."""
        kind = ConnectionKind.of(connection_class, AbstractConnection, SentinelManagedConnection)
        self.can_block, self._is_plain, self._read = kind.can_block, kind.is_plain, kind.read
        # The timeout is set around a whole call; one inside each send and read would cost more.
        self._options = connection_options(client_options) | {"socket_timeout": None, "socket_connect_timeout": None}
        self._idle: list[Any] = []
        self._free = asyncio.Semaphore(MAX_IDLE)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._left: dict[asyncio.Task[Any], Any] = {}
        """Tasks that go on for callers that were cancelled, each with the connection that it reads."""
        self._watch: AsyncGenerator[None] | None = None
        self.closed = False
        self.last_try_failed = False
        """Then connecting may take long."""
        self._known = KnownServer()
        self._connector = AsyncConnector(connection_class, self._options, self._known)

    def clone(self) -> AsyncNodePool:
        """Return a pool of the same server."""
        return AsyncNodePool(self._class, self._options, self.limit, self._keep)

    async def call(self, effect: Send) -> Any:
        """Send a call over one connection and read its reply."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Connections end with their event loop; another loop (a second asyncio.run) gets its own.
            self._loop, self._idle, self._free = loop, [], asyncio.Semaphore(MAX_IDLE)
            self._left, self._watch = {}, None
        free, left = self._free, effect.timeout or self._deadline
        if free.locked():
            left = await self._wait_for(free, left)
        else:
            await free.acquire()
        until = loop.time() + min(left, self.limit)
        connection: Any = None
        replies: list[Any] = []
        try:
            async with asyncio.timeout_at(until):
                connection = await self._connection(effect.fresh, until)
                if effect.server != connection.server and not self._known.may_send(connection, effect):
                    raise ServerChanged(connection.server)
                await self._send(connection, effect)
                await self._receive(connection, effect, replies)
        except asyncio.CancelledError:
            if connection is None or not (effect.is_sent and connection.is_connected):
                free.release()
                if connection is not None:
                    await connection.disconnect(nowait=True)
            else:  # nobody else's call is to suffer for it: it stays, unless redis-py closed it while it wrote
                await self._watch_loop()
                effect.rest = self._start(self._read_rest(connection, effect, replies, until, free), connection)
            raise
        except BaseException as error:
            free.release()
            failed = await self._failed(connection, effect, error, until)
            raise failed from failed.__cause__
        await self._give_back(connection)
        free.release()
        return self._result(connection, effect, replies)

    async def call_packed(self, effect: Send) -> Any:
        """Send a packed command as ``call`` does, over an idle connection: at less cost. A store has one at a time."""
        loop = asyncio.get_running_loop()
        if not self._idle or loop is not self._loop or not self._is_plain:
            return await self.call(effect)
        connection = self._idle.pop()
        if connection.server != effect.server or connection._writer is None:
            await self._give_back(connection)
            return await self.call(effect)
        try:
            # As the connection's own methods: _failed does the rest that they do.
            effect.begin()
            try:
                connection._writer.write(effect.packed)
            finally:
                # A timer that closes the connection, which ends the read, costs less than one that cancels the task.
                # Meanwhile the server works.
                expiry = loop.call_later(self.limit, connection._writer.transport.abort)
            if isinstance(reply := await connection._parser.read_response(), ResponseError):
                raise reply
        except asyncio.CancelledError:
            await self._watch_loop()
            effect.rest = self._start(self._read_rest(connection, effect, [], expiry.when(), None), connection)
            raise
        except BaseException as error:
            is_late = loop.time() >= expiry.when() and not isinstance(error, ResponseError)
            failed = await self._failed(connection, effect, TimeoutError() if is_late else error)
            raise failed from failed.__cause__
        finally:
            expiry.cancel()
        known = self._known
        if loop.time() >= expiry.when():  # the timer may have closed it just now
            await connection.disconnect(nowait=True)
        elif connection.losses == known.losses and effect.server == known.current and not self.closed:
            self._idle.append(connection)  # as _put_back, to where it was taken from
            return reply
        else:
            await self._give_back(connection)
        return self._result(connection, effect, [reply])

    async def _wait_for(self, free: asyncio.Semaphore, seconds: float) -> float:
        """Wait for a connection to become free. Returns the seconds that are left."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        try:
            async with asyncio.timeout(seconds):
                await free.acquire()
        except TimeoutError:
            raise NotSent from TimeoutError(f"all {MAX_IDLE} connections of this store were busy")
        return max(0.001, end - loop.time())

    async def _send(self, connection: Any, effect: Send) -> None:
        if effect.asking:
            await connection.send_command("ASKING")
            await self._read(connection)
        packed = effect.packed or pack(effect.words)
        if effect.then:
            packed = b"".join([packed, *map(pack, effect.then)])
        effect.begin()
        await connection.send_packed_command(packed)

    async def close(self) -> None:
        """Close the idle connections, and those that are read for callers that were cancelled."""
        self.closed = True
        if self._loop is asyncio.get_running_loop():
            await self._cancel_left()
            while self._idle:
                await close_at_once(self._idle.pop())

    async def _cancel_left(self) -> None:
        for task, connection in list(self._left.items()):
            task.cancel()
            if connection is not None:  # the task does it some turns later
                await connection.disconnect(nowait=True)

    async def _watch_loop(self) -> None:
        """Cancel the tasks that are left when the event loop ends: asyncio.run cancels only those that it knows."""

        async def wait_for_end() -> AsyncGenerator[None]:
            try:
                yield  # until the loop closes its asynchronous generators
            finally:
                await self._cancel_left()

        if self._watch is None:
            self._watch = wait_for_end()
            await anext(self._watch)

    async def _receive(self, connection: Any, effect: Send, replies: list[Any]) -> None:
        """Read the replies that are still due."""
        while len(replies) <= len(effect.then):
            replies.append(await self._read(connection, disconnect_on_error=False))

    def _result(self, connection: Any, effect: Send, replies: list[Any]) -> Any:
        if connection.server != self._known.current:
            raise LateReply
        return replies if effect.then else replies[0]

    async def _read_rest(
        self, connection: Any, effect: Send, replies: list[Any], until: float, free: asyncio.Semaphore | None
    ) -> Any:
        """Read the replies for a task that was cancelled."""
        try:
            async with asyncio.timeout_at(until):
                await self._receive(connection, effect, replies)
        except BaseException as error:
            failed = await self._failed(connection, effect, error)
            raise failed from failed.__cause__
        else:
            await self._give_back(connection)
            return self._result(connection, effect, replies)
        finally:
            if free is not None:
                free.release()

    async def _failed(self, connection: Any, effect: Send, error: BaseException, until: float = 0.0) -> BaseException:
        """Keep or close the connection of a call that failed; return the exception for the caller."""
        # After an error reply the connection is in order, unless more replies are to come.
        is_reply = isinstance(error, ResponseError) and not ends_connection(error) and not effect.then
        if connection is not None and (is_reply or isinstance(error, ServerChanged)):
            await self._give_back(connection)
            return error
        self.last_try_failed = True
        if connection is not None:
            await connection.disconnect(nowait=True)
        limit, is_short = min(effect.timeout or self.limit, self.limit), False
        if type(error) is TimeoutError:
            error = TimeoutError(f"no {'reply' if connection else opening(self._class)} within {limit:.3g} s")
            is_short = limit < self.limit
        if isinstance(error, RedisError | OSError) and not is_short:
            # The failure has most likely hit the idle connections, too.
            self._known.lost()
            for idle in self._idle:
                await idle.disconnect(nowait=True)
            self._idle.clear()
        if connection is None and isinstance(error, Exception):  # a credential provider may raise anything
            unsent = NotSent()
            unsent.__cause__ = await self._connector.explained(error, until - asyncio.get_running_loop().time())
            return unsent
        return error

    async def _give_back(self, connection: Any) -> None:
        if not self._put_back(connection):
            await connection.disconnect(nowait=True)

    def _put_back(self, connection: Any) -> bool:
        """Put a connection back into the pool; False if it is no longer good for one."""
        self.last_try_failed = False
        if self.closed or len(self._idle) >= MAX_IDLE or not self._known.is_good(connection):
            return False
        self._idle.append(connection)
        return True

    async def _connection(self, fresh: bool, until: float) -> Any:
        if self._idle:
            connection = self._idle.pop()
            if not fresh:
                return connection
            try:
                is_usable = await is_open(connection)
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            if is_usable:
                return connection
            await connection.disconnect(nowait=True)
            raise RedisConnectionError(IDLE_CLOSED)
        opened = self._start(self._connector.connect(max(0.001, until - asyncio.get_running_loop().time())))
        try:
            return await result_of(opened)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if opened.cancelled() and not (task and task.cancelling()):  # close has cancelled it, and nobody the caller
                raise RedisConnectionError("the store was closed while this connection was opened") from None
            opened.add_done_callback(self._keep_opened)  # the next call can use it
            raise

    def _keep_opened(self, opened: asyncio.Task[Any]) -> None:
        """Keep a connection that was opened for a caller that was cancelled."""
        if not opened.cancelled() and opened.exception() is None:
            self._start(self._give_back(opened.result()))

    def _start(self, work: Coroutine[Any, Any, T], connection: Any = None) -> asyncio.Task[T]:
        task = StartedTask(work)
        self._left[task] = connection
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._left.pop(task, None)
        retrieve(task)
