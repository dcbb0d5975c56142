"""Whoever has threads, tasks or locks is told in the child of a ``fork``, which has none of them."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """What holds something that a child of ``fork`` does not inherit in working order."""

    def after_fork(self) -> None:
        """In the child, before anything else runs there: begin anew. It must not wait for any lock."""


forkable: WeakSet[Forkable] = WeakSet()
"""All of them in this process. Being here keeps nobody alive."""


def _after_fork() -> None:
    for one in list(forkable):
        one.after_fork()


os.register_at_fork(after_in_child=_after_fork)
