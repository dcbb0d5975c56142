"""The parts of the library that wait for changes, a function each."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from redis_kvpoll import KVPoll, StatusStore

HERE = hasattr(StatusStore, "mirror") and hasattr(StatusStore, "wait")
"""Whether this version has them; without, the benchmark leaves their rows out."""


def mirror_of(store: Any) -> AbstractContextManager[Any]:
    mirror: AbstractContextManager[Any] = store.mirror()
    return mirror


def wait(waiter: Any, room: int, status: int, seconds: float) -> None:
    """By a store or a mirror."""
    waiter.wait(room, KVPoll(status), timeout=seconds)
