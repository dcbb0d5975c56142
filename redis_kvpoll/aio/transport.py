"""Routes: take the steps of a flow over asyncio connections. The same as ``routes``, awaited."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from redis_kvpoll.aio.connections import Endpoint
from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Pause, Reroute, Send, Step
from redis_kvpoll.transport.connection_options import time_limit
from redis_kvpoll.transport.nodes import ToCluster, ToServer
from redis_kvpoll.transport.slot_map import CLUSTER_SLOTS


class Route(ABC):
    """What a store sends its steps to. ``shown`` names it for people; ``on_close`` closes what it was opened on."""

    def __init__(
        self,
        ways: ToServer[Endpoint] | ToCluster[Endpoint],
        shown: str,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.clustered = ways.clustered
        self.can_block = True
        """Whether a call may wait on the server for something to happen."""
        self._ways = ways
        self._shown = shown
        self._on_close = on_close

    def __str__(self) -> str:
        return self._shown

    @property
    @abstractmethod
    def limit(self) -> float:
        """Seconds that a call may take, unless it says otherwise."""

    @abstractmethod
    def twin(self) -> Route:
        """To the same place, with connections and a map of slots of its own; what was opened stays this one's."""

    async def take(self, step: Step) -> Any:
        """Do what a flow asks for."""
        if isinstance(step, Send):
            return await self._send(step)
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Reroute):
            return self._ways.reroute(step.redirect)
        raise AssertionError("whoever drives a flow sees to its riders")

    async def close(self) -> None:
        for endpoint in self._ways.endpoints():
            await endpoint.close()
        if self._on_close:
            await self._on_close()

    @abstractmethod
    async def _send(self, step: Send) -> Any:
        """Send, and wait for the reply."""


class ServerRoute(Route):
    """To one server."""

    def __init__(self, endpoint: Endpoint, shown: str, on_close: Callable[[], Awaitable[None]] | None = None) -> None:
        super().__init__(ToServer(endpoint), shown, on_close)
        self._endpoint = endpoint
        self.can_block = endpoint.can_block

    @property
    def limit(self) -> float:
        return self._endpoint.limit

    def twin(self) -> Route:
        return ServerRoute(self._endpoint.twin(), self._shown)

    async def _send(self, step: Send) -> Any:
        return await self._endpoint.call(step)


class ClusterRoute(Route):
    """To the nodes of a Redis Cluster."""

    def __init__(self, ways: ToCluster[Endpoint], deadline: float, shown: str) -> None:
        super().__init__(ways, shown)
        self._nodes = ways
        self._deadline = deadline
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()

    @property
    def limit(self) -> float:
        return time_limit(self._nodes.options, self._deadline)

    def twin(self) -> Route:
        return ClusterRoute(self._nodes.twin(), self._deadline, self._shown)

    async def _send(self, step: Send) -> Any:
        topology = self._nodes.topology
        try:
            if topology.stale:
                await self._read_map_once((step.timeout or self._deadline) / 2)
            return await self._nodes.endpoint_for(step).call(step)
        except ResponseError:
            raise
        except BaseException:
            topology.stale = True
            raise

    async def _read_map_once(self, seconds: float) -> None:
        """Read the map of slots, or wait until another task has."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._lock = loop, asyncio.Lock()
        try:
            async with asyncio.timeout(seconds), self._lock:
                if self._nodes.topology.stale:
                    await self._read_map(seconds)
        except TimeoutError as error:
            raise NotSent from error

    async def _read_map(self, seconds: float) -> None:
        """Ask one node after another for the map of slots; together they have ``seconds``."""
        topology = self._nodes.topology
        addresses = topology.nodes()
        failure: BaseException = RedisConnectionError("no node of the cluster knows of any slot")
        for address in addresses:
            try:
                reply = await self._nodes.endpoint_at(address).call(Send("", CLUSTER_SLOTS, seconds / len(addresses)))
            except NotSent as error:
                failure = error.__cause__ or error
            except (RedisError, OSError) as error:
                failure = error
            else:
                if topology.learn(reply, address):
                    return
        raise NotSent from failure
