"""The namespaces of a server, with their settings. A store has one namespace; this needs none."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

from redis.exceptions import AskError, MovedError, NoPermissionError, RedisError, ResponseError

from redis_kvpoll.aio import connect
from redis_kvpoll.aio.transport import AsyncTransport
from redis_kvpoll.engine.classify import Failure, NotSent, classify, explained
from redis_kvpoll.engine.effects import FollowRedirect, Send
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.settings import NAMES, Namespace, parse_namespace

PAGE = 1000


async def list_namespaces(url: str, deadline: float, within: float = math.inf) -> list[Namespace]:
    """Return the namespaces of a server, or of all masters of a cluster, by name.

    The walk over the keys ends after ``within`` seconds, with what was found by then. A namespace whose settings the
    server does not let this user read, or which are none, has its name alone.

    Raises:
        InvalidInputError: the URL is wrong.
        StoreUnavailableError: no answer within ``deadline`` seconds.
        ServerRefusedError: the server rejected it.
    """
    transport = connect.transport_from_url(url, deadline)
    try:
        names = sorted(await _names(transport, time.monotonic() + within))
        return [parse_namespace(name, await _settings(transport, name)) for name in names]
    except (NotSent, RedisError, OSError) as error:
        raise explained("namespaces", str(transport), error) from error
    finally:
        await transport.close()


async def _names(transport: AsyncTransport, until: float) -> set[str]:
    found: set[str] = set()
    with contextlib.suppress(NoPermissionError):  # the user of one namespace may not ask for this key
        await _perform(transport, Send("0", ["EXISTS", keys.settings("0")]))  # in a cluster, it reads the slot map
    for tag in transport.tag_of_each_node():
        cursor = ""
        while cursor != "0" and time.monotonic() < until:
            words = ["SCAN", cursor or "0", "MATCH", keys.ALL_SETTINGS, "COUNT", str(PAGE)]
            reply: Any = await transport.perform(Send(tag, words))
            cursor = reply[0].decode()
            found |= {name for key in reply[1] if (name := keys.namespace_of(key)) is not None}
    return found


async def _settings(transport: AsyncTransport, name: str) -> list[Any]:
    """Return the reply that has the settings of a namespace; None for each if the server refuses to tell."""
    try:
        return list(await _perform(transport, Send(name, ["HMGET", keys.settings(name), *NAMES])))
    except ResponseError as error:
        if classify(error) is not Failure.REJECTED:
            raise
        return [None] * len(NAMES)


async def _perform(transport: AsyncTransport, send: Send) -> Any:
    """Return the reply to a call, also of a slot that moves, or has moved."""
    try:
        return await transport.perform(send)
    except AskError as redirect:
        if not await transport.perform(FollowRedirect(redirect)):
            raise
        asking = None if isinstance(redirect, MovedError) else (redirect.host, redirect.port)
        return await transport.perform(Send(send.tag, send.words, asking=asking))  # the first is for its own node alone
