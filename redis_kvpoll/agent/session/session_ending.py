"""How a session ends: what its agent has told of its client, and what must be in the table before.

Invariant: the lease of a client that has left, or is dead, ends only when the table has what the client told. If Redis
is out of reach, the session waits for it, and renews the lease.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from redis_kvpoll.agent.session.joined_table import JoinedTable
from redis_kvpoll.agent.session.lease import SHUTDOWN_SECONDS, LeaseEnd

SILENT_SECONDS = 0.75
"""A client that was not heard for so long counts as standing still."""


class SessionEnding:
    """The end of one session, as it becomes known. It decides on the lease: it is its ``LeaseClient``.

    ``silent_for`` gives the seconds since the client was heard. ``had_session``: another one has joined for it before.
    """

    def __init__(self, silent_for: Callable[[], float], *, had_session: bool) -> None:
        self.how: LeaseEnd | None = None
        self.has_joined = False
        self.has_begun = asyncio.Event()
        self.is_known = asyncio.Event()
        """Set once ``how`` is final."""
        self.is_given_up = asyncio.Event()
        """Set if Redis is waited for no longer."""
        self._silent_for = silent_for
        self._had_session = had_session

    def tell(self, how: LeaseEnd, *, may_be_dead: bool) -> None:
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
        """Whether another session speaks for the client from now on: this one must open nothing more."""
        return self.how is LeaseEnd.KEEP and self.is_known.is_set()

    @property
    def waits_for_redis(self) -> bool:
        """Whether the session has to reach the table before it ends."""
        return self.how in (LeaseEnd.LEAVE, LeaseEnd.LOST) and not self.is_given_up.is_set()

    @property
    def has_to_join(self) -> bool:
        """Whether the session must join. If it ends first, only to tell the rest of what the table has from another."""
        return not self.has_joined and (not self.has_begun.is_set() or (self._had_session and self.waits_for_redis))

    @property
    def lease_ending(self) -> LeaseEnd:
        """What becomes of the lease. One from a former session stays for the next try to join."""
        tries_on = self._had_session and not self.has_joined and not self.is_given_up.is_set()
        return LeaseEnd.KEEP if tries_on else self.how or LeaseEnd.LEAVE

    def stands_still(self) -> bool:
        """Whether the client may stand still; it says four times a second that it does not, until its end is told."""
        return self._silent_for() > SILENT_SECONDS and not self.waits_for_redis


async def publish_rest(table: JoinedTable, end: SessionEnding, on_delay: Callable[[], object]) -> None:
    """Publish what is pending, before a lease ends. ``on_delay`` is called when that takes longer than usual.

    What a server that answers does not take, as other ranks hold a room, is left; while none answers, this waits.
    """
    publisher = table.publisher
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_SECONDS):
                await publisher.flush()
                return
        is_answering = table.is_synced and publisher.is_online.is_set() and not publisher.awaits_answer
        if not end.waits_for_redis or is_answering:
            return
        on_delay()
