"""Failures in the other role's table, and which of them fail a room here.

A failure is passed on only if it concerns the processes that serve the room (see peers), and still holds when the room
is read. Until SGLang says who serves it, the failure waits. One that does not concern those waits on: prefill learns of
decode's processes one by one, as each asks for its pages.

Where decode has several stages, prefill is told only what a process of SGLang's has failed itself: see
``pages.leave_to_sglang``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection

from redis_kvpoll.integrations.sglang.peers import Address, address_of, concerns, has_stages, without_address
from redis_kvpoll.integrations.sglang.registry import RoomRegistry

_LOST_OWNER = re.compile(r"^owner (prefill|decode)/(\S+)")
"""The start of the table's reason for a room whose owner was lost."""

logger = logging.getLogger("redis_kvpoll")


def for_people(reason: str) -> str:
    """Return a reason of the table's as SGLang shows it: ``prefill 10.0.0.1:8998/tp0 lost``."""
    return _LOST_OWNER.sub(lambda found: f"{found[1]} {without_address(found[2])}", reason)


class PeerFailures:
    """Decides on the failures in the other role's table.

    ``peers_of`` gives the addresses that serve a room, or none while they are not known. ``read`` is called with a room
    and its life to have the room read. ``fail`` is called with a room, its life and the reason.
    """

    def __init__(
        self,
        role: str,
        registry: RoomRegistry,
        peers_of: Callable[[int], Collection[Address] | None],
        read: Callable[[int, int], object],
        fail: Callable[[int, int, str], object],
    ) -> None:
        self._role = role
        self._registry = registry
        self._peers_of = peers_of
        self._read = read
        self._fail = fail
        self._lock = registry.changes.lock  # another thread may note a failure of the room's next life meanwhile
        self._waiting: dict[int, tuple[int, Collection[Address]]] = {}
        """By room: the life for which its failure may count, and who served the room when it was read last."""

    def on_failure(self, room: int, number: int) -> None:
        """Take note of a failure in the other role's table."""
        with self._lock:
            self._waiting[room] = number, ()
        self.check(room)

    def check_all(self) -> None:
        """Check all failures that wait, because more may be known now."""
        for room in list(self._waiting):
            self.check(room)

    def check(self, room: int) -> None:
        """Have a room read, if a failure of it waits and more is known of who serves the room than when it was read."""
        if room not in self._waiting:
            return
        peers = self._peers_of(room)
        with self._lock:
            number, known = self._waiting.get(room, (-1, ()))
            if not self._registry.is_undecided(room, number):
                self._waiting.pop(room, None)
                return
            if not peers or peers == known:
                return
            self._waiting[room] = number, peers
        self._read(room, number)

    def decide(
        self, room: int, number: int, failed_by: str | None, owner: str | None, reason: str | None, owners: list[str]
    ) -> None:
        """Fail a room that was read, if its failure concerns who serves it."""
        peers, reason = self._peers_of(room) or (), reason or f"failed on the {self._role} side"
        is_of_sglang = address_of(failed_by) is not None and not _LOST_OWNER.match(reason)
        if not self._registry.is_undecided(room, number) or not concerns(failed_by, owner, peers, owners):
            return
        if self._role == "decode" and has_stages(owner) and not is_of_sglang:
            logger.debug("redis_kvpoll: room %d goes on, as decode has several stages: %s", room, reason)
        else:
            self._fail(room, number, for_people(reason))
