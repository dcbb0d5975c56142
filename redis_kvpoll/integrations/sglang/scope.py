"""Which life of a room a thread of SGLang's acts on.

SGLang reads a status, decides, and writes the next one, in separate steps that differ between releases. A scope covers
such steps: it begins with the life that the room has at that moment, and a write inside it applies to that life only.
So the maps do not depend on how SGLang reads, and nothing is left in a thread's memory after the steps.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple


class Scope(NamedTuple):
    """The steps of one thread on one room."""

    room: int
    number: int | None
    """The life that they act on; None if the room was absent when they began."""
    publish: bool = True
    """Whether what they write goes into the table; False for what comes from there."""
    keeps_success: bool = False
    """Whether a life that has reached Success stays as it is."""


NO_LIFE = -1
"""The number of no life: steps in its scope change nothing."""


class Claim(NamedTuple):
    """A sender or receiver of a room."""

    room: int
    request: str
    """SGLang's id of the request; empty if it is not known."""


class Scopes(threading.local):
    """Of each thread, its innermost scope. ``lives`` has the current life's number of each room."""

    current: Scope | None = None
    claim: Claim | None = None
    """The room whose sender or receiver this thread makes."""

    def __init__(self, lives: Mapping[int, int]) -> None:
        super().__init__()
        self._lives = lives

    def around(self, update_status: Callable[..., Any]) -> Callable[..., Any]:
        """Return SGLang's ``update_status`` so that it runs in a scope: one call is about one life of its room."""
        threads, lives = self, self._lives

        def scoped_update_status(bootstrap_room: int, status: int) -> Any:
            outer = threads.current
            if outer is not None and outer.room == bootstrap_room:
                return update_status(bootstrap_room, status)
            threads.current = Scope(bootstrap_room, lives.get(bootstrap_room))
            try:
                return update_status(bootstrap_room, status)
            finally:
                threads.current = outer

        return scoped_update_status

    @contextlib.contextmanager
    def within(self, scope: Scope) -> Iterator[None]:
        """Let this thread's steps act on one life only, such as those of a sender or receiver that has opened it."""
        outer, self.current = self.current, scope
        try:
            yield
        finally:
            self.current = outer

    def is_late(self, room: int) -> bool:
        """Return whether this thread acts on a former life of a room."""
        scope = self.current
        return scope is not None and scope.room == room and scope.number not in (None, self._lives.get(room))
