"""A second receiver of a room that is in use gets Failed, and leaves the first one's room alone.

SGLang keys everything by the room. Two receivers would share one status, and whichever is cleared first would take the
other's room away. So the second one is answered here, by methods of the object itself: whatever its backend overrides.
"""

from __future__ import annotations

import sys
from typing import Any

from redis_kvpoll.integrations.sglang.merge import FAILED

REASON = "room reused while in use"


def refuse(receiver: Any, room: int) -> None:
    """Make a receiver report Failed, with the reason, and do nothing else."""

    def failure_exception() -> None:
        raise _error_class(receiver)(room, REASON)

    receiver.conclude_state = FAILED
    receiver.poll = lambda: FAILED
    receiver.failure_exception = failure_exception
    for name in ("init", "send_metadata", "abort", "clear", "ensure_abort_notified"):
        setattr(receiver, name, _do_nothing)


def _do_nothing(*_: Any, **__: Any) -> None:
    pass


def _error_class(receiver: Any) -> Any:
    """Return SGLang's KVTransferError, which is the backend's own in its older releases."""
    for owner in type(receiver).__mro__:
        if (found := getattr(sys.modules.get(owner.__module__), "KVTransferError", None)) is not None:
            return found
    return RuntimeError
