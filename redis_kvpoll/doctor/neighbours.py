"""How many keys a server has, and which share of them is kvpoll's: for who wonders what fills it.

Invariant: it looks at a bounded number of keys, whatever the server has.
"""

from __future__ import annotations

from typing import NamedTuple

from redis_kvpoll.doctor import databases, node_look, sampling
from redis_kvpoll.doctor.databases import KeyCounts
from redis_kvpoll.protocol import keys
from redis_kvpoll.sync.connect import transport_from_url
from redis_kvpoll.sync.transport import Node

PAGES = 8


class Neighbours(NamedTuple):
    """The keys of a server, or of all masters of a cluster."""

    counts: KeyCounts
    share: float
    """Of kvpoll's keys in the URL's database, by a sample."""


def count_keys(url: str, seconds: float) -> Neighbours | None:
    """Return the keys of a URL's server; None if it has none, does not answer, or does not let this user look."""
    transport = transport_from_url(url, seconds)
    found, ours = [], 0.0
    try:
        for node in transport.nodes(seconds):
            if node.slots is not None and not node.slots:
                continue
            counts = sampling.count_keys(node)
            found.append(counts)
            ours += counts.here * (_share(node, counts.here) if counts.here else 0.0)
    except node_look.FAILURES:
        return None
    finally:
        transport.close()
    counts = databases.of_all(found)
    return Neighbours(counts, ours / counts.here if counts.here else 0.0) if counts.total else None


def _share(node: Node, count: int) -> float:
    """Return which share of the first keys that SCAN passes is kvpoll's: they are in no order."""
    cursor, passed, ours = "0", 0, 0
    for _ in range(PAGES):
        reply = node_look.ask(node.pool, "SCAN", cursor, "MATCH", keys.EVERYTHING, "COUNT", str(sampling.PAGE))
        if reply is None:
            break
        cursor, passed, ours = reply[0].decode(), passed + sampling.PAGE, ours + len(reply[1])
        if cursor == "0":
            passed = count
            break
    return min(1.0, ours / min(passed, count)) if passed else 0.0
