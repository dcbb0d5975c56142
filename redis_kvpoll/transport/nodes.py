"""What the blocking and the asyncio routes decide alike: all but the waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from redis.exceptions import AskError, MovedError, ResponseError

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.transport.slot_map import Address, SlotMap

E = TypeVar("E")
"""An node_pool: one server, with our connections to it."""


class OneNode(Generic[E]):
    """The way to one server, or by Sentinel to whichever is primary."""

    clustered = False

    def __init__(self, node_pool: E) -> None:
        self._node_pool = node_pool

    def node_pools(self) -> list[E]:
        return [self._node_pool]

    def reroute(self, redirect: AskError) -> bool:
        """Take note of a redirect; False where there is no cluster to redirect in."""
        return False


class ClusterNodes(Generic[E]):
    """The ways to the nodes of a Redis Cluster. ``make`` makes the node_pool for the connection options of a node."""

    clustered = True

    def __init__(self, make: Callable[[dict[str, Any]], E], options: dict[str, Any], slot_map: SlotMap) -> None:
        self._make = make
        self.options = options
        self._by_address: dict[Address, E] = {}
        self.slot_map = slot_map

    def twin(self) -> ClusterNodes[E]:
        """The same, with a map of its own."""
        return ClusterNodes(self._make, self.options, self.slot_map.twin())

    def node_pools(self) -> list[E]:
        return list(self._by_address.values())

    def pool_at(self, address: Address) -> E:
        node_pool = self._by_address.get(address)
        if node_pool is None:
            made = self._make(self.options | {"host": address[0], "port": address[1]})
            node_pool = self._by_address.setdefault(address, made)
        return node_pool

    def pool_for(self, effect: Send) -> E:
        """The node that holds the effect's slot, or that ASK named for it."""
        if effect.asking:
            return self.pool_at(self.slot_map.redirected(*effect.asking))
        try:
            return self.pool_at(self.slot_map.owner(effect.tag))
        except ResponseError as error:
            raise NotSent from error

    def reroute(self, redirect: AskError) -> bool:
        if isinstance(redirect, MovedError):
            self.slot_map.moved(redirect)
        return True
