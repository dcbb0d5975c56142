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
    """The lock of a registry, and the changes that are put off. ``lock`` is reentrant; it suffices for reads.

    ``after`` is called, with the lock, after a change for which ``is_news`` was set.
    """

    def __init__(self, scopes: Scopes, after: Callable[[], object]) -> None:
        self.lock = threading.RLock()
        self.is_news = False
        self._scopes = scopes
        self._after = after
        self.is_changing = False
        """Whether a change is being made; to a thread that has the lock: by itself."""
        self._put_off: deque[Callable[[], object]] = deque()

    def make(self, change: Callable[[], T], expected: Callable[[], T]) -> T:
        """Make a change and return its result. If it interrupts one of its own thread, it is put off until that is
        over, and the result is what it is ``expected`` to be."""
        with self.lock:
            if self.is_changing:
                self._put_off.append(self._in_present_scope(change))
                return expected()
            try:
                self.is_changing = True
                result = change()
                self._make_put_off()
            finally:
                self.is_changing = False
            while self._put_off and not self.is_changing:  # one was put off just before that
                try:
                    self.is_changing = True
                    self._make_put_off()
                finally:
                    self.is_changing = False
            self.settle()
        return result

    def settle(self) -> None:
        """Tell that there is news, if there is. The caller holds the lock."""
        if self.is_news and not self.is_changing:
            self.is_news = False
            self._after()

    def _make_put_off(self) -> None:
        while self._put_off:
            self._put_off.popleft()()

    def _in_present_scope(self, change: Callable[[], object]) -> Callable[[], object]:
        """Return a change that is about the life, and for the claim, that its thread acts for now."""
        scopes = self._scopes
        scope, claim = scopes.current, scopes.claim

        def scoped() -> None:
            outer = scopes.current, scopes.claim
            scopes.current, scopes.claim = scope, claim
            try:
                change()
            finally:
                scopes.current, scopes.claim = outer

        return scoped


def change(method: F) -> F:
    """Decorate a method of a registry that is a change without a result. Its ``changes`` make it."""

    @wraps(method)
    def made(self: Any, *arguments: Any) -> None:
        self.changes.make(lambda: method(self, *arguments), _nothing)

    return cast(F, made)


def _nothing() -> None:
    return None
