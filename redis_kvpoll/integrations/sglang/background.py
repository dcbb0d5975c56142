"""Calls that may block, one after the other in a thread of their own, which does not keep the process alive."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("redis_kvpoll")


class Background:
    """A function whose calls return at once, and run in their order. ``end`` it, or its thread keeps what it holds."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._calls: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="kvpoll-background", daemon=True).start()

    def __call__(self, *arguments: Any) -> None:
        self._calls.put(arguments)

    def end(self) -> None:
        """End the thread after the calls that were made; later ones are dropped."""
        self._calls.put(None)

    def _run(self) -> None:
        while (arguments := self._calls.get()) is not None:
            try:
                self._function(*arguments)
            except Exception:
                logger.exception("redis_kvpoll: %s%r failed", self._function.__name__, arguments)
