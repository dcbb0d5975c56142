"""Changes of the registry, one at a time, whoever makes them.

A signal handler or a finalizer may use SGLang's maps while it interrupts a change of its own thread. It must not wait
for that change, and must not see it half done.

Invariant: the lock is held for every change, and a change never runs in the middle of another.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar, cast

from redis_kvpoll.integrations.sglang.scope import Scopes

F = TypeVar("F", bound=Callable[..., None])
T = TypeVar("T")


class Changes:
    """The lock of a registry, and the changes that are put off. ``lock`` is reentrant; it suffices for reads.

    ``after`` is called after changes that have set ``is_news``. It is a change itself, which no other interrupts.
    """

    def __init__(self, scopes: Scopes) -> None:
        self.lock = threading.RLock()
        self.is_news = False
        """Whether there is something to tell outside."""
        self.after: Callable[[], object] = _nothing
        self._scopes = scopes
        self.is_changing = False
        """Whether a change is being made; to a thread that has the lock: by itself."""
        self._put_off: deque[Callable[[], object]] = deque()

    def make(self, change: Callable[..., T], expected: Callable[..., T], *arguments: Any) -> T:
        """Make a change and return its result. If it interrupts one of its own thread, it is put off until that is
        over, and the result is what it is ``expected`` to be. Both get the arguments."""
        with self.lock:
            if self.is_changing:
                self._put_off.append(self._in_present_scope(partial(change, *arguments)))
                return expected(*arguments)
            try:
                self.is_changing = True
                result = change(*arguments)
                self._finish()
            finally:
                self.is_changing = False
            if self.is_news or self._put_off:
                self.settle()
        return result

    def do(self, call: Callable[[], object]) -> None:
        """Make a change without a result."""
        self.make(call, _nothing)

    def settle(self) -> None:
        """Make what was put off, and tell of the news, unless a change is under way. The caller holds the lock."""
        while (self._put_off or self.is_news) and not self.is_changing:
            try:
                self.is_changing = True
                self._finish()
            finally:
                self.is_changing = False

    def _finish(self) -> None:
        """Make what was put off, and tell of the news, as parts of the change that is under way."""
        while self._put_off:
            self._put_off.popleft()()
        if self.is_news:
            self.is_news = False
            self.after()

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
        self.changes.make(method, _nothing, self, *arguments)

    return cast(F, made)


def _nothing(*_: Any) -> None:
    return None
