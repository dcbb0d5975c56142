"""A second sender or receiver of a room that is in use gets Failed, and leaves the first one's room alone.

SGLang keys everything by the room. Two of them would share one status, and whichever is cleared first would take the
other's room away. So the second one is answered here, by methods of the object itself: whatever its backend overrides.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from redis_kvpoll.agent.merge import FAILED

REASON = "room reused while in use"
STEPS = ("init", "send", "send_metadata", "abort", "clear", "ensure_abort_notified", "mark_prefill_complete")
"""What SGLang does with a sender or a receiver."""


def refuse(handle: Any, room: int) -> None:
    """Make a sender or a receiver report Failed, with the reason, and do nothing else."""

    def failure_exception() -> None:
        raise _error_class(handle)(room, REASON)

    handle.conclude_state = FAILED
    handle.poll = handle.poll_pp_consensus = lambda: FAILED
    handle.failure_exception = failure_exception
    handle.pop_decode_prefix_len = lambda: 0
    for name in STEPS:
        setattr(handle, name, _do_nothing)


class _DetachedManager:
    """A manager without its rooms: what a constructor writes there goes nowhere, and decode is told nothing."""

    deferred_bootstrap = None

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def update_status(self, *_: Any, **__: Any) -> None:
        pass

    record_failure = update_status


def make_apart(original: Callable[..., Any], sender: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run a sender's constructor without effect on its room."""
    if "mgr" in kwargs:
        manager = kwargs["mgr"]
        original(sender, *args, **kwargs | {"mgr": _DetachedManager(manager)})
    else:
        manager, *others = args
        original(sender, _DetachedManager(manager), *others, **kwargs)
    sender.kv_mgr = manager


def _do_nothing(*_: Any, **__: Any) -> None:
    pass


def _error_class(handle: Any) -> Any:
    """Return SGLang's KVTransferError, which is the backend's own in its older releases."""
    for owner in type(handle).__mro__:
        if (found := getattr(sys.modules.get(owner.__module__), "KVTransferError", None)) is not None:
            return found
    return RuntimeError
