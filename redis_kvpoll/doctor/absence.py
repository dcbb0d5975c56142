"""Why a namespace may be gone, for the commands that do not find it."""

from __future__ import annotations

from redis_kvpoll.doctor import losses, node_look
from redis_kvpoll.doctor.facts import Facts
from redis_kvpoll.errors import printable
from redis_kvpoll.sync.connect import transport_from_url
from redis_kvpoll.transport.urls import parse


def why_absent(url: str, seconds: float) -> str:
    """Return what the servers of a URL tell of lost data, in words; empty for nothing, or without an answer."""
    target = parse(url)
    transport = transport_from_url(url, seconds)
    try:
        nodes = tuple(node_look.look_at_losses(node) for node in transport.nodes(seconds))
    except node_look.FAILURES:
        return ""
    finally:
        transport.close()
    return printable(losses.why_absent(Facts("", target.kind, target.shown, nodes=nodes)))
