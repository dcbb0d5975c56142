"""The warning about a server that may evict live rooms."""

from __future__ import annotations

import logging
import warnings

from redis_kvpoll.errors import EvictionWarning

logger = logging.getLogger("redis_kvpoll")


def warn(memory: bytes, namespace: str) -> None:
    """Warn if the reply to ``INFO memory`` shows a maxmemory with an eviction policy."""
    fields = dict(line.split(":", 1) for line in memory.decode().splitlines() if ":" in line)
    policy = fields.get("maxmemory_policy", "noeviction")
    if fields.get("maxmemory", "0") == "0" or policy == "noeviction":
        return
    what = (
        f"the server's maxmemory-policy is {policy}: when memory is short, it may evict live rooms of namespace "
        f"{namespace!r}; set it to noeviction"
    )
    try:
        warnings.warn(what, EvictionWarning, stacklevel=1)
    except EvictionWarning:  # warnings are errors here, but the caller's call must still be executed
        logger.warning(what)
