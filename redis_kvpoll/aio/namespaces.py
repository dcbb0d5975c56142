"""The namespaces of a server, with their settings. A store has one namespace; this needs none."""

from __future__ import annotations

import math
import time
from typing import Any

from redis.exceptions import RedisError

from redis_kvpoll.aio import connect
from redis_kvpoll.aio.transport import AsyncTransport
from redis_kvpoll.engine.classify import NotSent, explained
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.settings import NAMES, Namespace, parse_namespace

PAGE = 1000


async def list_namespaces(url: str, deadline: float, within: float = math.inf) -> list[Namespace]:
    """Return the namespaces of a server, or of all masters of a cluster, by name.

    The walk over the keys ends after ``within`` seconds, with what was found by then.

    Raises:
        InvalidInputError: the URL is wrong.
        StoreUnavailableError: no answer within ``deadline`` seconds.
        ServerRefusedError: the server rejected it.
    """
    transport = connect.transport_from_url(url, deadline)
    try:
        found = []
        for name in sorted(await _names(transport, time.monotonic() + within)):
            reply = await transport.perform(Send(name, ["HMGET", keys.settings(name), *NAMES]))
            found.append(parse_namespace(name, reply))
        return found
    except (NotSent, RedisError, OSError) as error:
        raise explained("namespaces", str(transport), error) from error
    finally:
        await transport.close()


async def _names(transport: AsyncTransport, until: float) -> set[str]:
    found: set[str] = set()
    await transport.perform(Send("0", ["EXISTS", keys.settings("0")]))  # in a cluster, it reads the slot map
    for tag in transport.tag_of_each_node():
        cursor = ""
        while cursor != "0" and time.monotonic() < until:
            words = ["SCAN", cursor or "0", "MATCH", keys.ALL_SETTINGS, "COUNT", str(PAGE)]
            reply: Any = await transport.perform(Send(tag, words))
            cursor = reply[0].decode()
            found |= {name for key in reply[1] if (name := keys.namespace_of(key)) is not None}
    return found
