"""Opens asyncio connections, each with the identity of its server."""

from __future__ import annotations

import asyncio
import select
from typing import Any

from redis.exceptions import RedisError, ResponseError

from redis_kvpoll.transport import tls_probe
from redis_kvpoll.transport.connection_kind import is_fake
from redis_kvpoll.transport.connection_options import pack
from redis_kvpoll.transport.server_identity import ASK_IDENTITY, KnownServer


class AsyncConnector:
    """Opens connections to one endpoint. ``known`` is what they have found there."""

    def __init__(self, connection_class: Any, options: dict[str, Any], known: KnownServer) -> None:
        self._class = connection_class
        self._options = options
        self._known = known
        self._asks = not is_fake(connection_class)
        self._probe_is_due = True

    async def connect(self, seconds: float) -> Any:
        """Open a connection within so many seconds."""
        before = self._known.snapshot()
        connection = self._class(**self._options)
        try:
            async with asyncio.timeout(seconds):
                await connection.connect()
                replies = await _ask(connection) if self._asks else []
            self._known.admit(connection, before, replies)
        except BaseException:
            await connection.disconnect(nowait=True)  # redis-py leaves it open if a credential provider raises
            raise
        self._probe_is_due = False
        return connection

    async def explained(self, error: Exception, seconds: float) -> Exception:
        """Return the error of ``connect``, or that the server expects TLS. Only a new connector asks, once."""
        if self._probe_is_due and seconds > 0 and tls_probe.may_expect_tls(error, self._class, self._options):
            self._probe_is_due = False
            return await asyncio.to_thread(tls_probe.probe, self._options, seconds) or error
        return error


async def is_open(connection: Any) -> bool:
    """Return whether an idle connection is still open. No reply is due, so anything to read means that it is not."""
    try:
        if await connection.can_read():
            return False
        # redis-py sees only what the event loop has read: after a busy period, or between two runs, more may be there.
        writer: Any = getattr(connection, "_writer", None)
        socket = writer.get_extra_info("socket") if hasattr(writer, "get_extra_info") else None
        if socket is not None:  # fakeredis has none
            poll = select.poll()
            poll.register(socket, select.POLLIN)
            return not poll.poll(0)
    except (RedisError, OSError, ValueError):
        return False
    return True


async def close_at_once(connection: Any) -> None:
    """Close an idle connection. TLS would wait half a minute for a server that has stopped to confirm it."""
    transport: Any = getattr(getattr(connection, "_writer", None), "transport", None)
    await connection.disconnect(nowait=True)
    if hasattr(transport, "abort"):  # fakeredis has none
        transport.abort()


async def _ask(connection: Any) -> list[Any]:
    """Return the replies to ASK_IDENTITY, errors included."""
    replies: list[Any] = []
    await connection.send_packed_command(b"".join([pack(words) for words in ASK_IDENTITY]))
    for _ in ASK_IDENTITY:
        try:
            replies.append(await connection.read_response())
        except ResponseError as denied:
            replies.append(denied)
    return replies
