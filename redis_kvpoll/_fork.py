"""Resets objects that hold threads, tasks or locks in the child of a ``fork``, where none of these works.

To add one: implement ``after_fork`` and add the object to ``forkable``.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """An object that needs a reset in the child of a ``fork``."""

    def after_fork(self) -> None:
        """Reset, in the child before any other code runs. It must not wait for a lock."""


pid = os.getpid()
"""The id of this process, without a system call. Read it as ``_fork.pid``: a child has its own."""

forkable: WeakSet[Forkable] = WeakSet()
"""The objects of this process to reset, by weak reference."""


def _after_fork() -> None:
    global pid
    pid = os.getpid()
    for each in list(forkable):
        each.after_fork()


os.register_at_fork(after_in_child=_after_fork)
