"""The layers of redis_kvpoll, from top to bottom. The test of the layering reads LAYERS, and so does the picture.

Each layer is one or more rooms: a module or a folder of redis_kvpoll/. A room may import what is in a lower layer, and
nothing of its own layer: ``sync`` and ``aio`` do not know each other, nor do ``replica`` and ``transport``.
"""

from __future__ import annotations

LAYERS: tuple[dict[str, str], ...] = (
    {"cli": "the kvpoll command"},
    {
        "replay": "traffic by real processes, with faults",
        "integrations": "SGLang's plugin",
    },
    {
        "sync": "everything that blocks",
        "aio": "everything that awaits",
    },
    {
        "replica": "the local copy that follows the change feed",
        "transport": "URLs, connection options, slot map, embedded server",
    },
    {"engine": "batching, retries, recovery, leases: decisions, no I/O"},
    {"protocol": "keys, scripts, commands, replies, the feed: pure"},
    {"validation": "argument checks", "_fork": "who must know of a fork"},
    {"errors": "the exceptions"},
    {"model": "KVPoll, Outcome, Update, Entry"},
)
