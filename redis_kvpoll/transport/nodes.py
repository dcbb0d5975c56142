"""Which node of a server or cluster gets a call: the same in sync and aio.

``P`` is their pool of connections to one node: NodePool or AsyncNodePool.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from redis.exceptions import AskError, MovedError, ResponseError

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.transport.slot_map import Address, SlotMap


class AnyNodePool(Protocol):
    """A pool of connections to one node."""

    closed: bool
    """Whether it keeps no connection for the next call."""
    last_try_failed: bool
    """Then connecting may take long."""


P = TypeVar("P", bound=AnyNodePool)


class OneNode(Generic[P]):
    """One server, or by Sentinel whichever server is primary."""

    clustered = False

    def __init__(self, pool: P) -> None:
        self._pool = pool

    def pools(self) -> list[P]:
        return [self._pool]

    def close(self) -> list[P]:
        """Return the pools, which are to be closed."""
        return self.pools()

    def tag_of_each_node(self) -> list[str]:
        return [""]

    def follow_redirect(self, redirect: AskError) -> bool:
        """Take note of a redirect. Returns False: there is no cluster in which to follow it."""
        return False


class ClusterNodes(Generic[P]):
    """The nodes of a Redis Cluster.

    ``make_pool`` makes the pool for the connection options of a node, ``of_clones`` that of a clone; None: the same.
    """

    clustered = True

    def __init__(
        self,
        make_pool: Callable[[dict[str, Any]], P],
        options: dict[str, Any],
        slot_map: SlotMap,
        of_clones: Callable[[dict[str, Any]], P] | None = None,
    ) -> None:
        self._make_pool = make_pool
        self._of_clones = of_clones or make_pool
        self.options = options
        self._by_address: dict[Address, P] = {}
        self.slot_map = slot_map
        self._closed = False

    def clone(self) -> ClusterNodes[P]:
        """Return the same nodes, with their own pools and slot map."""
        return ClusterNodes(self._of_clones, self.options, self.slot_map.clone())

    def pools(self) -> list[P]:
        return list(self._by_address.values())

    def close(self) -> list[P]:
        """Return the pools, which are to be closed. One that a call in flight makes from now on keeps no connection."""
        self._closed = True
        return self.pools()

    def tag_of_each_node(self) -> list[str]:
        """Return a hash tag for each node that owns slots."""
        return self.slot_map.tag_of_each_owner()

    def pool_at(self, address: Address) -> P:
        pool = self._by_address.get(address)
        if pool is None:
            made = self._make_pool(self.options | {"host": address[0], "port": address[1]})
            pool = self._by_address.setdefault(address, made)
            if self._closed:
                pool.closed = True
        return pool

    def sources_of_map(self) -> list[tuple[Address, P]]:
        """Return the nodes to read the slot map from, in turn. One that hangs would take its share of the time."""
        sources = [(address, self.pool_at(address)) for address in self.slot_map.nodes()]
        return sorted(sources, key=lambda source: source[1].last_try_failed)

    def pool_for(self, effect: Send) -> P:
        """Return the pool of the node that owns the slot, or that ASK named for this call."""
        try:
            if effect.asking:
                return self.pool_at(self.slot_map.asked(effect.tag, *effect.asking))
            return self.pool_at(self.slot_map.owner(effect.tag))
        except ResponseError as error:
            raise NotSent from error

    def follow_redirect(self, redirect: AskError) -> bool:
        """Update the slot map from a redirect. Returns True: the call may be sent again."""
        if isinstance(redirect, MovedError):
            self.slot_map.moved(redirect)
        return True
