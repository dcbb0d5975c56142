"""Changes of the registry, one at a time, whoever makes them.

A signal handler or a finalizer may use SGLang's maps while it interrupts a change of its own thread. It must not wait
for that change, and must not see it half done.

Invariant: the lock is held for every change, and a change never runs in the middle of another.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from redis_kvpoll.integrations.sglang.scope import Scopes

F = TypeVar("F", bound=Callable[..., None])
T = TypeVar("T")


class Changes:
    """The lock of a registry, and the changes that are put off. ``lock`` is reentrant; it suffices for reads."""

    def __init__(self, scopes: Scopes) -> None:
        self.lock = threading.RLock()
        self.is_changing = False
        """Whether a change is being made; to a thread that has the lock: by itself."""
        self.waiting: deque[Callable[[], object]] = deque()
        """What was put off, for ``make_waiting``."""
        self._scopes = scopes

    def make(self, change: Callable[..., T], expected: Callable[..., T], *arguments: Any) -> T:
        """Make a change and return its result. If it interrupts one of its own thread, it is put off until that is
        over, and the result is what it is ``expected`` to be. Both get the arguments."""
        with self.lock:
            if self.is_changing:
                self.put_off(change, *arguments)
                return expected(*arguments)
            try:
                self.is_changing = True
                result = change(*arguments)
                if self.waiting:
                    self.make_all()
            finally:
                self.is_changing = False
            if self.waiting:
                self.make_waiting()
        return result

    def do(self, call: Callable[[], object]) -> None:
        """Make a change without a result."""
        self.make(call, _nothing)

    def put_off(self, change: Callable[..., object], *arguments: Any) -> None:
        """Make a change once the one that it interrupts is over. It is about the life, and for the claim, that its
        thread acts for now."""
        scopes = self._scopes
        scope, claim = scopes.current, scopes.claim

        def scoped() -> None:
            outer = scopes.current, scopes.claim
            scopes.current, scopes.claim = scope, claim
            try:
                change(*arguments)
            finally:
                scopes.current, scopes.claim = outer

        self.waiting.append(scoped)

    def make_waiting(self) -> None:
        """Make what was put off, unless a change is under way. The caller holds the lock."""
        while self.waiting and not self.is_changing:
            try:
                self.is_changing = True
                self.make_all()
            finally:
                self.is_changing = False

    def make_all(self) -> None:
        """Make what was put off, as a part of the change that is under way."""
        while self.waiting:
            self.waiting.popleft()()


def change(method: F) -> F:
    """Decorate a method of a registry, or of its maps, that is a change without a result."""

    @wraps(method)
    def made(self: Any, *arguments: Any) -> None:  # as Changes.make, without a call: SGLang makes several a request
        changes = self.changes
        with changes.lock:
            if changes.is_changing:
                changes.put_off(method, self, *arguments)
                return
            try:
                changes.is_changing = True
                method(self, *arguments)
                if changes.waiting:
                    changes.make_all()
            finally:
                changes.is_changing = False
            if changes.waiting:
                changes.make_waiting()

    return cast(F, made)


def _nothing(*_: Any) -> None:
    return None
