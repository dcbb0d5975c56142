"""The options of a store, and their defaults, with the reasons in StatusStore's docstring. Durations are in seconds."""

from __future__ import annotations

from typing import TypedDict

from redis_kvpoll.validation import Mode, Policy

DEFAULT_TTL = 900.0
DEFAULT_TERMINAL_TTL = 300.0
DEFAULT_DEADLINE = 5.0


class StoreOptions(TypedDict, total=False):
    """The options of StatusStore and AsyncStatusStore, as ``from_url`` takes them."""

    namespace: str
    ttl: float
    terminal_ttl: float
    deadline: float
    policy: Policy | None
    mode: Mode | None
    shards: int | None
    feed_length: int | None
    rank: int | None
    world_size: int | None
    read_only: bool
