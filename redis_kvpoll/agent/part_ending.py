"""How a table part ends: what its agent has told of its client, and what follows at once. No I/O."""

from __future__ import annotations

import asyncio

from redis_kvpoll.agent.lease import Ending


class PartEnding:
    """The end of one table part, as it becomes known."""

    def __init__(self) -> None:
        self.how: Ending | None = None
        self.has_begun = asyncio.Event()
        self.is_known = asyncio.Event()
        """Set once ``how`` is final."""

    def tell(self, how: Ending, *, may_be_dead: bool) -> None:
        """Take how it ends. The first call decides. One with ``may_be_dead`` is provisional: the next call decides."""
        if not self.is_known.is_set():
            self.how = how
        self.has_begun.set()
        if not may_be_dead:
            self.is_known.set()

    @property
    def awaits_death(self) -> bool:
        """Whether only the client's connection has ended, so that its death may still be told."""
        return self.has_begun.is_set() and not self.is_known.is_set()

    @property
    def is_taken_over(self) -> bool:
        """Whether another table part speaks for the client from now on: this one must open nothing more."""
        return self.how is Ending.KEEP and self.is_known.is_set()
