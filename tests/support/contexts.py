"""Call contexts, as a store would derive them from its settings."""

from __future__ import annotations

from redis_kvpoll.protocol.script_call import CallContext

DEFAULTS = {
    "namespace": "ns",
    "shards": 1,
    "policy": "compat",
    "mode": "none",
    "feed_length": "1000",
    "ttl_ms": "900000",
    "terminal_ttl_ms": "300000",
}


def context(**changes):
    return CallContext(**{**DEFAULTS, **changes})
