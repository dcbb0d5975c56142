"""What prefill tells decode of failures: nothing of those that the table has told, and the table after decode.

Decode may then fail a request by SGLang's message, with SGLang's own rules for its pages, and not by the table before.
But a rank of prefill that has only heard from the table that another rank failed must not send that message: the other
one may still write to decode's pages.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from redis_kvpoll.agent.merge import SUCCESS
from redis_kvpoll.integrations.sglang.registry import RoomRegistry

MAX_NOTED = 1_000
"""Rooms: beyond it, those that are over are forgotten."""


class FailedByTable:
    """Fails rooms of prefill that have failed in a table, and knows them while they are open."""

    def __init__(self, registry: RoomRegistry) -> None:
        self._registry = registry
        self._lives: dict[int, int] = {}

    def fail(self, room: int, number: int, reason: str, publish: bool) -> None:
        """Fail a life, as ``RoomRegistry.fail_from_table``."""
        if self._registry.is_undecided(room, number):
            if len(self._lives) >= MAX_NOTED:
                self._lives = {room: life for room, life in list(self._lives.items()) if self._is_current(room, life)}
            self._lives[room] = number  # before: SGLang may conclude the transfer at any moment
        self._registry.fail_from_table(room, number, reason, publish)

    def __contains__(self, room: int) -> bool:
        life = self._lives.get(room)
        return life is not None and self._is_current(room, life)

    def _is_current(self, room: int, life: int) -> bool:
        return self._registry.current_life(room) == life


def around_conclude(original: Callable[..., Any], manager: Any, *args: Any, **kwargs: Any) -> Any:
    """Prefill concludes a transfer, and tells decode.

    One that was written to its end is concluded with Success, which SGLang makes a failure if the room has failed.
    """
    registry = getattr(manager.request_status, "registry", None)
    room = kwargs.get("bootstrap_room")
    if registry is None or room is None:
        return original(manager, *args, **kwargs)
    is_peers = kwargs.get("status") == SUCCESS and room in getattr(manager, "kvpoll_failed_by_table", ())
    if is_peers and "targets" in inspect.signature(original).parameters:
        kwargs["targets"] = []  # decode hears of it from the rank that has failed, or by its own rules
    return registry.withhold_during(room, original, manager, *args, **kwargs)


def around_update(registry: Any, update_status: Callable[..., Any]) -> Callable[..., Any]:
    """Return prefill's ``update_status``, which tells decode of a failure where decode allocates after prefill."""

    def update_status_and_tell(bootstrap_room: int, status: int) -> Any:
        return registry.withhold_during(bootstrap_room, update_status, bootstrap_room, status)

    return update_status_and_tell
