"""Failures in the other role's table, and which of them fail a room here.

A failure is passed on only if it concerns the processes that serve the room (see peers), and still holds when the room
is read. Until SGLang says who serves it, the failure waits.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection

from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.integrations.sglang.merge import FAILED, SUCCESS
from redis_kvpoll.integrations.sglang.peers import Address, concerns, without_address
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from redis_kvpoll.model import KVPoll, Owner, RoomFailure

OWNERS_SECONDS = 1.0
"""How long a list of owners is used: many rooms of an instance fail at once."""
_OWNER = re.compile(r"^owner (prefill|decode)/(\S+)")
"""The start of the table's reason for a room whose owner was lost."""


def for_people(reason: str) -> str:
    """Return a reason of the table's as SGLang shows it: ``prefill 10.0.0.1:8998/tp0 lost``."""
    return _OWNER.sub(lambda found: f"{found[1]} {without_address(found[2])}", reason)


class PeerFailures:
    """Follows the other role's table.

    ``peers_of`` gives the addresses that serve a room, or none while they are not known. ``fail`` is called with a
    room, its life and the reason.
    """

    def __init__(
        self,
        store: AsyncStatusStore,
        role: str,
        registry: RoomRegistry,
        peers_of: Callable[[int], Collection[Address] | None],
        fail: Callable[[int, int, str], object],
    ) -> None:
        self._store = store
        self._role = role
        self._registry = registry
        self._peers_of = peers_of
        self._fail = fail
        self._waiting: dict[int, tuple[int, int]] = {}
        """By room: the life for which its failure may count, and the generation that failed."""
        self._checks: set[asyncio.Task[None]] = set()
        self._owners: tuple[float, list[Owner]] = (float("-inf"), [])

    def on_failure(self, failure: RoomFailure) -> None:
        """Take note of a failure in the other role's table."""
        number = self._registry.current_life(failure.room)
        if number is not None:
            self._waiting[failure.room] = number, failure.generation
            self.check(failure.room)

    def check_all(self) -> None:
        """Check all failures that wait, because more may be known now."""
        for room in list(self._waiting):
            self.check(room)

    def check(self, room: int) -> None:
        """Decide on a room's failure, if one waits and it is known who serves the room."""
        number, generation = self._waiting.get(room, (None, 0))
        if number is None:
            return
        is_open = self._registry.current_life(room) == number
        if not is_open or dict.get(self._registry.statuses, room) in (FAILED, SUCCESS):
            del self._waiting[room]
        elif peers := self._peers_of(room):
            del self._waiting[room]
            check = asyncio.create_task(self._decide(room, number, generation, peers))
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def _decide(self, room: int, number: int, generation: int, peers: Collection[Address]) -> None:
        try:
            entry = await self._store.entry(room)
            if entry is None or entry.status is not KVPoll.Failed or (entry.generation or 0) != generation:
                return  # it was cleared; what is there since has a failure of its own, or none
            is_mine = concerns(entry, peers, ()) or concerns(entry, peers, await self._known_owners())
        except KVPollError:
            self._waiting.setdefault(room, (number, generation))  # for check_all
            return
        if is_mine:
            reason = for_people(entry.reason or f"failed on the {self._role} side")
            self._fail(room, number, reason)

    async def _known_owners(self) -> list[Owner]:
        at, owners = self._owners
        if time.monotonic() - at > OWNERS_SECONDS:
            owners = await self._store.owners()
            self._owners = time.monotonic(), owners
        return owners
