"""The namespaces of a server, with their settings. A store has one namespace; this needs none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from redis_kvpoll.engine import classify, remedies
from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.errors import ServerRefusedError, StoreUnavailableError, printable
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.settings import NAMES
from redis_kvpoll.sync import connect
from redis_kvpoll.sync.transport import Transport

PAGE = 1000


class Namespace(NamedTuple):
    """A namespace and its settings, as they are stored; None for one that is missing."""

    namespace: str
    policy: str | None
    mode: str | None
    shards: int | None
    feed_length: int | None
    schema: str | None


def list_namespaces(url: str, deadline: float) -> list[Namespace]:
    """Return the namespaces of a server, or of all masters of a cluster, by name.

    Raises:
        InvalidInputError: the URL is wrong.
        StoreUnavailableError: no answer within ``deadline`` seconds.
        ServerRefusedError: the server rejected it.
    """
    transport = connect.transport_from_url(url, deadline)
    try:
        return sorted(_settings_of(transport, name) for name in set(_names(transport)))
    except (NotSent, RedisError, OSError) as error:
        cause = classify.root_cause(error)
        if classify.classify(error) is classify.Failure.REJECTED:
            raise ServerRefusedError(f"namespaces: {printable(classify.describe_rejection(cause))}") from error
        what = f"no answer from {transport}: {printable(remedies.text_of(cause))} ({remedies.remedy(cause)})"
        raise StoreUnavailableError(f"namespaces: {what}") from error
    finally:
        transport.close()


def _names(transport: Transport) -> Iterator[str]:
    transport.perform(Send("0", ["EXISTS", keys.settings("0")]))  # in a cluster, it reads the slot map
    for tag in transport.tag_of_each_node():
        cursor = ""
        while cursor != "0":
            words = ["SCAN", cursor or "0", "MATCH", keys.ALL_SETTINGS, "COUNT", str(PAGE)]
            reply: Any = transport.perform(Send(tag, words))
            cursor = reply[0].decode()
            yield from (name for key in reply[1] if (name := keys.namespace_of(key)) is not None)


def _settings_of(transport: Transport, namespace: str) -> Namespace:
    reply = transport.perform(Send(namespace, ["HMGET", keys.settings(namespace), *NAMES]))
    texts = (None if word is None else word.decode("utf-8", "replace") for word in reply)
    stored = dict(zip(NAMES, texts, strict=True))
    return Namespace(
        namespace,
        stored["policy"],
        stored["mode"],
        _number(stored["shards"]),
        _number(stored["feed_length"]),
        stored["schema"],
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
