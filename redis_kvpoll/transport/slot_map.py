"""The slot map: which node of a Redis Cluster owns which slot, learned from the nodes themselves.

redis-py has a map, too. But it is read over the client's connections, with the client's time limits (for each node in
turn, so several times our deadline when nodes hang), and in asyncio only in the event loop that read it first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError

Address: TypeAlias = tuple[str, int]

CLUSTER_SLOTS = ("CLUSTER", "SLOTS")


class SlotMap:
    """The owners of the slots. ``seeds`` are the nodes to ask first; ``remap`` turns an announced address into ours.

    While ``stale``, it is to be read again before the next call.
    """

    def __init__(self, seeds: Iterable[Address], remap: Callable[[str, int], Address] | None = None) -> None:
        self.stale = True
        self._seeds = list(seeds)
        self._known = self._seeds
        self._remap = remap or (lambda host, port: (host, port))
        self._owners: dict[int, Address] = {}
        self._slots: dict[str, int] = {}
        self._turn = 0

    def clone(self) -> SlotMap:
        """Return a map with the same nodes that is yet to be read."""
        return SlotMap(self._known, self._remap)

    def nodes(self) -> list[Address]:
        """Return the nodes to ask for the map: all known ones, each time beginning with another."""
        self._turn += 1
        at = self._turn % len(self._known)
        return self._known[at:] + self._known[:at]

    def learn(self, reply: list[Any], asked: Address) -> bool:
        """Apply the reply to CLUSTER SLOTS; return False when the node knows no slot."""
        owners: dict[int, Address] = {}
        nodes: list[Address] = []
        for first, last, *holders in reply:
            # A node that does not know its own address leaves it empty: it is the address that was asked.
            found = [self._remap((host or b"").decode() or asked[0], int(port)) for host, port, *_ in holders]
            owners.update(dict.fromkeys(range(int(first), int(last) + 1), found[0]))
            nodes += found  # the primary and its replicas, one of which may be all that is left
        if owners:
            self._owners, self.stale = owners, False
            self._known = list(dict.fromkeys([*nodes, *self._seeds]))
        return bool(owners)

    def owner(self, tag: str) -> Address:
        """Return the node that owns the slot of a hash tag."""
        slot = self._slots.get(tag)
        if slot is None:
            slot = self._slots[tag] = key_slot(tag.encode())
        owner = self._owners.get(slot)
        if owner is None:
            self.stale = True
            raise ClusterDownError(f"no node of the cluster owns slot {slot}")
        return owner

    def moved(self, redirect: AskError) -> None:
        """Set the owner that a MOVED names."""
        if redirect.host:
            self._owners[redirect.slot_id] = self.redirected(redirect.host, redirect.port)
        else:
            self.stale = True

    def redirected(self, host: str, port: int) -> Address:
        """Return the address of a redirect, as it is reached from here."""
        return self._remap(host, port)
