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

_TRIED_TAGS = 100_000
"""Each reaches one of 16,384 slots, so that hardly a slot is missed."""
_UNKNOWN = ("", "?")
"""What stands for the host of a node that does not know it, or has not been told the name that it is to announce."""

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
        self.members: list[Address] = []
        """The nodes that the map names: those that own slots, then their replicas."""
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
            found = [self._address(_announced(*holder), int(holder[1]), asked[0]) for holder in holders]
            owners.update(dict.fromkeys(range(int(first), int(last) + 1), found[0]))
            nodes += found  # the primary and its replicas, one of which may be all that is left
        if owners:
            self._owners, self.stale = owners, False
            self.members = list(dict.fromkeys([*owners.values(), *nodes]))
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

    def slots_of(self, address: Address) -> frozenset[int]:
        """Return the slots that a node owns; none for a replica."""
        return frozenset(slot for slot, owner in self._owners.items() if owner == address)

    def tag_of_each_owner(self) -> list[str]:
        """Return a hash tag for each node that owns slots, by which a command reaches it."""
        found: dict[Address, str] = {}
        owners = set(self._owners.values())
        for tag in map(str, range(_TRIED_TAGS)):
            found.setdefault(self.owner(tag), tag)
            if len(found) == len(owners):
                break
        return list(found.values())

    def moved(self, redirect: AskError) -> None:
        """Set the owner that a MOVED names."""
        if redirect.host not in _UNKNOWN:
            self._owners[redirect.slot_id] = self._remap(redirect.host, redirect.port)
        else:
            self.stale = True

    def asked(self, tag: str, host: str, port: int) -> Address:
        """Return the node that an ASK names for a tag."""
        return self._address(host, port, "" if host not in _UNKNOWN else self.owner(tag)[0])

    def _address(self, host: str, port: int, asked: str) -> Address:
        """Return an announced address as it is reached from here. An unknown host is the one that was asked."""
        return self._remap(asked if host in _UNKNOWN else host, port)


def _announced(host: bytes | None, port: int, *more: Any) -> str:
    """Return the host that a node announces: its preferred endpoint, else the address beside it, else an empty one."""
    known = (host or b"").decode()
    if known in _UNKNOWN and len(more) > 1:
        beside = more[1] if isinstance(more[1], dict) else dict(zip(more[1][::2], more[1][1::2], strict=False))
        known = beside.get(b"ip", b"").decode() if known == "?" else known
    return known
