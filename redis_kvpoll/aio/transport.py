"""Routes: take the effects of a flow over asyncio connections. The same as ``routes``, awaited."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from redis_kvpoll.aio.connections import AsyncNodePool
from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Effect, FollowRedirect, Send, Sleep
from redis_kvpoll.transport.connection_options import time_limit
from redis_kvpoll.transport.nodes import ClusterNodes, OneNode
from redis_kvpoll.transport.slot_map import CLUSTER_SLOTS


class AsyncTransport(ABC):
    """What a store sends its effects to. ``shown`` names it for people; ``on_close`` closes what it was opened on."""

    def __init__(
        self,
        ways: OneNode[AsyncNodePool] | ClusterNodes[AsyncNodePool],
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
    def twin(self) -> AsyncTransport:
        """To the same place, with connections and a map of slots of its own; what was opened stays this one's."""

    async def take(self, effect: Effect) -> Any:
        """Do what a flow asks for."""
        if isinstance(effect, Send):
            return await self._send(effect)
        if isinstance(effect, Sleep):
            return await asyncio.sleep(effect.seconds)
        if isinstance(effect, FollowRedirect):
            return self._ways.reroute(effect.redirect)
        raise AssertionError("a driver waits for calls itself")

    async def close(self) -> None:
        for node_pool in self._ways.node_pools():
            await node_pool.close()
        if self._on_close:
            await self._on_close()

    @abstractmethod
    async def _send(self, effect: Send) -> Any:
        """Send, and wait for the reply."""


class AsyncNodeTransport(AsyncTransport):
    """To one server."""

    def __init__(
        self, node_pool: AsyncNodePool, shown: str, on_close: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        super().__init__(OneNode(node_pool), shown, on_close)
        self._node_pool = node_pool
        self.can_block = node_pool.can_block

    @property
    def limit(self) -> float:
        return self._node_pool.limit

    def twin(self) -> AsyncTransport:
        return AsyncNodeTransport(self._node_pool.twin(), self._shown)

    async def _send(self, effect: Send) -> Any:
        return await self._node_pool.call(effect)


class AsyncClusterTransport(AsyncTransport):
    """To the nodes of a Redis Cluster."""

    def __init__(self, ways: ClusterNodes[AsyncNodePool], deadline: float, shown: str) -> None:
        super().__init__(ways, shown)
        self._nodes = ways
        self._deadline = deadline
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()

    @property
    def limit(self) -> float:
        return time_limit(self._nodes.options, self._deadline)

    def twin(self) -> AsyncTransport:
        return AsyncClusterTransport(self._nodes.twin(), self._deadline, self._shown)

    async def _send(self, effect: Send) -> Any:
        slot_map = self._nodes.slot_map
        try:
            if slot_map.stale:
                await self._read_map_once((effect.timeout or self._deadline) / 2)
            return await self._nodes.pool_for(effect).call(effect)
        except ResponseError:
            raise
        except BaseException:
            slot_map.stale = True
            raise

    async def _read_map_once(self, seconds: float) -> None:
        """Read the map of slots, or wait until another task has."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._lock = loop, asyncio.Lock()
        try:
            async with asyncio.timeout(seconds), self._lock:
                if self._nodes.slot_map.stale:
                    await self._read_map(seconds)
        except TimeoutError as error:
            raise NotSent from error

    async def _read_map(self, seconds: float) -> None:
        """Ask one node after another for the map of slots; together they have ``seconds``."""
        slot_map = self._nodes.slot_map
        addresses = slot_map.nodes()
        failure: BaseException = RedisConnectionError("no node of the cluster knows of any slot")
        for address in addresses:
            try:
                reply = await self._nodes.pool_at(address).call(Send("", CLUSTER_SLOTS, seconds / len(addresses)))
            except NotSent as error:
                failure = error.__cause__ or error
            except (RedisError, OSError) as error:
                failure = error
            else:
                if slot_map.learn(reply, address):
                    return
        raise NotSent from failure
