"""What prefill tells decode of failures: nothing of those that the table has told, and the table after decode.

Decode may then fail a request by SGLang's message, with SGLang's own rules for its pages, and not by the table before.
But a rank of prefill that has only heard from the table that another rank failed must not send that message: the other
one may still write to decode's pages.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def around_conclude(original: Callable[..., Any], manager: Any, *args: Any, **kwargs: Any) -> Any:
    """Prefill concludes a transfer, and tells decode.

    One that was written to its end is concluded with Success, which SGLang makes a failure if the room has failed.
    """
    registry = getattr(manager.request_status, "registry", None)
    room = kwargs.get("bootstrap_room")
    if registry is None or room is None:
        return original(manager, *args, **kwargs)

    failed = getattr(manager, "kvpoll_failed_by_table", None)
    if failed is None:
        return registry.withhold_during(room, original, manager, *args, **kwargs)

    def tell(is_hidden: bool) -> Any:
        if is_hidden and "targets" in inspect.signature(original).parameters:
            kwargs["targets"] = []  # decode hears of it from the rank that has failed, or by its own rules
        return registry.withhold_during(room, original, manager, *args, **kwargs)

    return failed.conclude(room, kwargs.get("status"), tell)


def around_update(registry: Any, update_status: Callable[..., Any]) -> Callable[..., Any]:
    """Return prefill's ``update_status``, which tells decode of a failure where decode allocates after prefill."""

    def update_status_and_tell(bootstrap_room: int, status: int) -> Any:
        return registry.withhold_during(bootstrap_room, update_status, bootstrap_room, status)

    return update_status_and_tell
