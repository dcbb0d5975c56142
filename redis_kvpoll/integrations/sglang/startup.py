"""What a process needs before it joins the table: whether it is to, and the log line if it does not.

Nothing here loads a Redis client or asyncio: SGLang imports the plugin in every one of its processes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from redis_kvpoll.errors import printable
from redis_kvpoll.integrations.sglang.compat import SUPPORTED

URL = "KVPOLL_URL"

logger = logging.getLogger("redis_kvpoll")


def is_enabled(environment: Mapping[str, str]) -> bool:
    """Return whether the environment enables the table."""
    return bool(environment.get(URL, "").strip())


def log_disabled(reason: str) -> None:
    """Log in one line that this process does not use the table, and why."""
    logger.error(
        "redis_kvpoll: the status table is disabled: %s; SGLang uses its own dicts until it is restarted",
        printable(reason.rstrip(".")),
    )


def log_incompatible(error: Exception) -> None:
    """Log the same for an SGLang that differs from what the plugin relies on."""
    log_disabled(f"{error} (this redis-kvpoll is tested with SGLang {SUPPORTED}: update redis-kvpoll)")
