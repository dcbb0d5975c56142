"""Failures of prefill's that SGLang tells decode by a message: the table has them only once that is sent.

Decode may then fail a request by SGLang's message, with SGLang's own rules for its pages, and not by the table before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def around_conclude(original: Callable[..., Any], manager: Any, *args: Any, **kwargs: Any) -> Any:
    """Prefill concludes a transfer, and tells decode."""
    registry = getattr(manager.request_status, "registry", None)
    room = kwargs.get("bootstrap_room")
    if registry is None or room is None:
        return original(manager, *args, **kwargs)
    return registry.withhold_during(room, original, manager, *args, **kwargs)


def around_update(registry: Any, update_status: Callable[..., Any]) -> Callable[..., Any]:
    """Return prefill's ``update_status``, which tells decode of a failure where decode allocates after prefill."""

    def update_status_and_tell(bootstrap_room: int, status: int) -> Any:
        return registry.withhold_during(bootstrap_room, update_status, bootstrap_room, status)

    return update_status_and_tell
