"""Which life of a room a thread of SGLang's acts on.

SGLang reads a status, decides, and writes the next one, in separate steps that differ between releases. A scope covers
such steps: it begins with the life that the room has at that moment, and a write inside it applies to that life only.
So the maps do not depend on how SGLang reads, and nothing is left in a thread's memory after the steps.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)  # a NamedTuple takes longer to make, and each change makes one
class Scope:
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


class Scopes(threading.local):
    """Of each thread, its innermost scope. ``lives`` has the current life's number of each room."""

    current: Scope | None = None
    claim: Claim | None = None
    """For which room this thread makes the sender or receiver."""

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


class Claim:
    """A block in which a thread makes the sender or receiver of a room. ``on_end`` is called with room and request.

    A class, because a generator with ``contextmanager`` takes three times as long: each request has such a block.
    """

    __slots__ = ("_on_end", "_scopes", "request", "room")

    def __init__(self, scopes: Scopes, on_end: Callable[[int, str], object], room: int, request: str) -> None:
        self.room = room
        self.request = request
        """SGLang's id of the request; empty if it is not known."""
        self._scopes = scopes
        self._on_end = on_end

    def __enter__(self) -> None:
        self._scopes.claim = self

    def __exit__(self, *_: object) -> None:
        self._scopes.claim = None
        self._on_end(self.room, self.request)
