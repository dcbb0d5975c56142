"""The functions that are called with what followers find.

Invariant: they are called for one piece of news at a time, in order, though on Redis Cluster each shard has a follower,
and in blocking code each follower a thread.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from redis_kvpoll.errors import InvalidInputError

Callback = Callable[..., object]

logger = logging.getLogger("redis_kvpoll.mirror")


class Listeners:
    """Functions that were registered by ``operation``, a method's name. The first argument of each call is a room."""

    def __init__(self, operation: str) -> None:
        self._operation = operation
        self._callbacks: list[Callback] = []
        self._turn = deque([None])
        """Empty while a thread calls them. Not a lock: a callback may wait for the other followers to end."""

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def add(self, callback: Callback) -> Callable[[], None]:
        """Register a function. Returns a function that ends its calls."""
        if not callable(callback):
            raise InvalidInputError(f"{self._operation}: it takes a function, not {type(callback).__name__}")
        # A new function per registration, so that a callback that is registered twice can be ended once.
        listener: Callback = lambda *news: callback(*news)  # noqa: E731
        self._callbacks.append(listener)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._callbacks.remove(listener)

        return end

    def tell(self, has_news: Callable[[], bool], take: Callable[[], Iterable[tuple[Any, ...]]]) -> None:
        """Call them with all that ``take`` returns, while there is news. If another thread does so now, it goes on."""
        while has_news():
            try:
                self._turn.pop()
            except IndexError:
                return  # whoever has the turn looks for news once more after it
            try:
                for news in take():
                    self._call(news)
            finally:
                self._turn.append(None)

    def after_fork(self) -> None:
        """In the child: the thread that may have had the turn does not run there."""
        self._turn = deque([None])

    def _call(self, news: tuple[Any, ...]) -> None:
        for callback in tuple(self._callbacks):
            try:
                callback(*news)
            except KeyboardInterrupt:
                raise
            except BaseException:  # CancelledError and SystemExit, too: they would end the follower without a word
                logger.exception("a callback of %s raised for room %d", self._operation, news[0])
