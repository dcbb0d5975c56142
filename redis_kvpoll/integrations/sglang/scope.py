"""Which life of a room a thread of SGLang's acts on.

SGLang reads a status, decides, and writes the next one, in separate steps that differ between releases. A scope covers
such steps: it begins with the life that the room has at that moment, and a write inside it applies to that life only.
So the maps do not depend on how SGLang reads, and nothing is left in a thread's memory after the steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from redis_kvpoll.agent.life import Life
from redis_kvpoll.agent.merge import FAILED
from redis_kvpoll.integrations.sglang.lives import RoomLives

Scope = tuple[int, Life | None]
"""A room, and the life that it had when the steps began. None: it was absent, and they may open it."""
_NO_LIFE = Life(0, 0)
"""A life that no room has: of steps that change nothing, whatever the room is."""


class TableFailure(NamedTuple):
    """A failure in a table, which a thread passes on to a life."""

    life: Life
    publish: bool
    """Whether it goes into this role's table; False if it comes from there."""


class Scopes(threading.local):
    """Of each thread, its innermost scope. ``lives`` has the current life of each room."""

    current: Scope | None = None
    claim: tuple[int, str] | None = None
    """For which room this thread makes the sender or receiver, and for which request of SGLang's; empty if that is not
    known."""
    failure: TableFailure | None = None
    """What this thread passes on now."""

    def __init__(self, lives: RoomLives) -> None:
        super().__init__()
        self._lives = lives

    def around(self, update_status: Callable[..., Any]) -> Callable[..., Any]:
        """Return SGLang's ``update_status`` so that it runs in a scope: one call is about one life of its room."""
        threads, lives = self, self._lives

        def scoped_update_status(bootstrap_room: int, status: int) -> Any:
            outer = threads.current
            if outer is not None and outer[0] == bootstrap_room:
                return update_status(bootstrap_room, status)
            threads.current = bootstrap_room, lives.get(bootstrap_room)
            try:
                return update_status(bootstrap_room, status)
            finally:
                threads.current = outer

        return scoped_update_status

    def run(self, scope: Scope, call: Callable[..., Any], /, *arguments: Any, **words: Any) -> Any:
        """Make a call whose steps on the scope's room act in it."""
        outer, self.current = self.current, scope
        try:
            return call(*arguments, **words)
        finally:
            self.current = outer

    def run_apart(self, room: int, call: Callable[..., Any], /, *arguments: Any, **words: Any) -> Any:
        """Make a call whose steps on a room change nothing."""
        return self.run((room, _NO_LIFE), call, *arguments, **words)

    def fail(self, life: Life, publish: bool, update_status: Callable[..., Any]) -> None:
        """Fail a life by SGLang's ``update_status``, because of a failure in a table."""
        outer, self.failure = self.failure, TableFailure(life, publish)
        try:
            self.run((life.room, life), update_status, life.room, FAILED)
        finally:
            self.failure = outer

    def is_late(self, room: int) -> bool:
        """Return whether this thread acts on a former life of a room, or must change nothing there."""
        if self.current is None or self.current[0] != room:
            return False
        _, life = self.current
        return life is not None and life is not self._lives.get(room)
