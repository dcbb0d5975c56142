"""What the blocking and the asyncio routes decide alike: all but the waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from redis.exceptions import AskError, MovedError, ResponseError

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.transport.slot_map import Address, Topology

E = TypeVar("E")
"""An endpoint: one server, with our connections to it."""


class ToServer(Generic[E]):
    """The way to one server, or by Sentinel to whichever is primary."""

    clustered = False

    def __init__(self, endpoint: E) -> None:
        self._endpoint = endpoint

    def endpoints(self) -> list[E]:
        return [self._endpoint]

    def reroute(self, redirect: AskError) -> bool:
        """Take note of a redirect; False where there is no cluster to redirect in."""
        return False


class ToCluster(Generic[E]):
    """The ways to the nodes of a Redis Cluster. ``make`` makes the endpoint for the connection options of a node."""

    clustered = True

    def __init__(self, make: Callable[[dict[str, Any]], E], options: dict[str, Any], topology: Topology) -> None:
        self._make = make
        self.options = options
        self._by_address: dict[Address, E] = {}
        self.topology = topology

    def twin(self) -> ToCluster[E]:
        """The same, with a map of its own."""
        return ToCluster(self._make, self.options, self.topology.twin())

    def endpoints(self) -> list[E]:
        return list(self._by_address.values())

    def endpoint_at(self, address: Address) -> E:
        endpoint = self._by_address.get(address)
        if endpoint is None:
            made = self._make(self.options | {"host": address[0], "port": address[1]})
            endpoint = self._by_address.setdefault(address, made)
        return endpoint

    def endpoint_for(self, step: Send) -> E:
        """The node that holds the step's slot, or that ASK named for it."""
        if step.asking:
            return self.endpoint_at(self.topology.redirected(*step.asking))
        try:
            return self.endpoint_at(self.topology.owner(step.tag))
        except ResponseError as error:
            raise NotSent from error

    def reroute(self, redirect: AskError) -> bool:
        if isinstance(redirect, MovedError):
            self.topology.moved(redirect)
        return True
