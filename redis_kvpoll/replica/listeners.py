"""The functions that are called with what followers find.

Invariant: they are called for one piece of news at a time, in order, though on Redis Cluster each shard has a follower,
and in blocking code each follower a thread.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from redis_kvpoll.errors import InvalidInputError

Callback = Callable[..., object]

logger = logging.getLogger("redis_kvpoll.mirror")


class Turn(Protocol):
    """The right to call listeners, which one of several followers has at a time."""

    def take(self) -> bool:
        """Wait for it, not for long: whoever has it may be in a callback that waits for the other followers to end."""

    def give_back(self) -> None: ...

    def may_be_interrupted(self) -> bool:
        """Whether a KeyboardInterrupt in a listener may be Ctrl-C."""


class Listeners:
    """Functions that the method ``operation`` registers. ``room_of`` returns the room that their arguments concern."""

    def __init__(self, operation: str, room_of: Callable[..., int], turn: Turn) -> None:
        self.turn = turn
        self._operation = operation
        self._room_of = room_of
        self._callbacks: list[Callback] = []

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
        """Call them with what ``take`` returns, while there is news.

        If another follower does so for long, this leaves the news to it: it looks for more after each turn.
        """
        while has_news() and self.turn.take():
            try:
                for news in take():
                    self._call(news)
            finally:
                self.turn.give_back()

    def _call(self, news: tuple[Any, ...]) -> None:
        for callback in tuple(self._callbacks):
            try:
                callback(*news)
            except BaseException as error:  # CancelledError and SystemExit, too: they would end the follower
                if isinstance(error, KeyboardInterrupt) and self.turn.may_be_interrupted():
                    raise
                logger.exception("a callback of %s raised for room %d", self._operation, self._room_of(*news))
