"""What the library logs in an agent: less than elsewhere, because a client's log has one line for it."""

from __future__ import annotations

import logging

from redis_kvpoll.errors import LeaseLostError

QUIET_LOGGERS = ("redis_kvpoll.mirror", "redis_kvpoll.leases")
"""During an outage each follower and lease would log a warning; each client gets one: see outage."""


def be_quiet() -> None:
    """Log of followers and leases errors only, without advice that the agent itself follows."""
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger(name).addFilter(_is_no_advice)


def _is_no_advice(record: logging.LogRecord) -> bool:
    """Whether a record is not the advice after a lost lease: an agent takes a new one, and tells the client."""
    return not (isinstance(record.args, tuple) and any(isinstance(value, LeaseLostError) for value in record.args))
