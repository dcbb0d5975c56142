"""Hooks on decode's queue of held pages: how long a request that the table has failed keeps them.

SGLang holds the pages of a failed request until every prefill process has acknowledged its abort, or for 30 s. If the
failure came from the table, before SGLang itself had noticed anything, the limit is when SGLang alone would have given
the pages away; an acknowledgement still frees them at once. Once SGLang's own heartbeat has found the instance lost,
its own limit counts from there.

Invariant: no limit is ever earlier than the one that SGLang has set.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from redis_kvpoll.integrations.sglang import pages

logger = logging.getLogger("redis_kvpoll")

LIMIT = -3
"""Where the limit is in an entry of ``_deferred_releases``: a tuple with one more item in front from 0.5.22 on."""
ROUNDING = 0.001
"""Seconds; more than what is lost in adding and subtracting a time limit."""


def around_defer(original: Callable[..., Any], queue: Any, decode_req: Any, *args: Any, **kwargs: Any) -> Any:
    """SGLang begins to hold the pages of a failed request."""
    receiver = getattr(decode_req, "kv_receiver", None)
    failures = getattr(getattr(receiver, "kv_mgr", None), "kvpoll_failures", None)
    if failures is not None and not failures.mark_prolonged(receiver):
        failures = None
    result = original(queue, decode_req, *args, **kwargs)
    if failures is not None:
        try:
            _prolong(queue, receiver)
        except Exception:
            failures.can_hold = False
            logger.exception(
                "redis_kvpoll: SGLang holds pages in another way than expected; from now on failures in the table end "
                "no request that may have asked for pages: report this traceback"
            )
    return result


def _prolong(queue: Any, receiver: Any) -> None:
    entry = queue._deferred_releases[-1]
    limit, hold = entry[LIMIT], queue.deferred_kv_release_timeout
    began = limit - hold
    is_expected = receiver.kvpoll_failed_at - ROUNDING <= began <= time.monotonic() + ROUNDING
    if entry[0].kv_receiver is not receiver or not is_expected:
        raise TypeError(f"an entry of {len(entry)} items has the limit {limit!r}")
    receiver.kvpoll_limit = limit
    queue.kvpoll_prolongs = True
    later = pages.release_time(receiver.init_time, receiver.kv_mgr.waiting_timeout, hold)
    queue._deferred_releases[-1] = _limited(entry, later)


def around_resolve(original: Callable[..., Any], queue: Any, *args: Any, **kwargs: Any) -> Any:
    """SGLang releases the pages whose limit is over; it does so in each iteration."""
    for place, entry in enumerate(queue._deferred_releases if hasattr(queue, "kvpoll_prolongs") else ()):
        if (limit := getattr(entry[0].kv_receiver, "kvpoll_limit", None)) is not None:
            queue._deferred_releases[place] = _after_node_failure(entry, limit, queue.deferred_kv_release_timeout)
    return original(queue, *args, **kwargs)


def _after_node_failure(entry: Any, sglangs: float, hold: float) -> Any:
    """Return an entry with the limit that it has once SGLang has found its prefill instance lost."""
    receiver = entry[0].kv_receiver
    failures = getattr(receiver.kv_mgr, "kvpoll_failures", None)  # None where SGLang has got its dicts back
    lost_at = failures.lost_nodes.get(receiver.bootstrap_addr, 0.0) if failures is not None else 0.0
    if lost_at < receiver.kvpoll_failed_at:
        return entry
    return _limited(entry, min(entry[LIMIT], max(sglangs, lost_at + hold)))


def _limited(entry: Any, limit: float) -> Any:
    return (*entry[:LIMIT], limit, *entry[LIMIT + 1 :])


def around_node_failure(original: Callable[..., Any], manager: Any, *args: Any, **kwargs: Any) -> Any:
    """SGLang's heartbeat has found a prefill instance lost."""
    failures = getattr(manager, "kvpoll_failures", None)
    if failures is not None:
        address, *_ = (*args, *kwargs.values(), "")
        failures.lost_nodes[address] = time.monotonic()
    return original(manager, *args, **kwargs)
