"""Transports: they perform the effects of a flow over asyncio connections.

Invariant: an effect is performed once. No transport retries; the flow decides.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from redis_kvpoll.aio.connections import AsyncNodePool
from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Effect, FollowRedirect, Send, Sleep
from redis_kvpoll.transport.connection_options import count_towards, time_limit
from redis_kvpoll.transport.nodes import ClusterNodes, OneNode
from redis_kvpoll.transport.slot_map import CLUSTER_SLOTS


class AsyncTransport(ABC):
    """Where a store sends its effects. ``shown`` is its name in messages; ``on_close`` closes what it was opened on."""

    def __init__(
        self,
        nodes: OneNode[AsyncNodePool] | ClusterNodes[AsyncNodePool],
        shown: str,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.clustered = nodes.clustered
        self.can_block = True
        """Whether a call may block on the server until something happens."""
        self._nodes = nodes
        self._shown = shown
        self._on_close = on_close

    def __str__(self) -> str:
        return self._shown

    @property
    @abstractmethod
    def limit(self) -> float:
        """Seconds for a call that has no timeout of its own."""

    @abstractmethod
    def clone(self) -> AsyncTransport:
        """Return a transport to the same server, with its own connections and slot map, without ``on_close``."""

    async def perform(self, effect: Effect) -> Any:
        """Perform an effect and return its result."""
        if isinstance(effect, Send):
            return await self._send(effect)
        if isinstance(effect, Sleep):
            return await asyncio.sleep(effect.seconds)
        if isinstance(effect, FollowRedirect):
            return self._nodes.follow_redirect(effect.redirect)
        raise AssertionError("AwaitCalls is the dispatcher's")

    def call_packed(self, effect: Send) -> Awaitable[Any]:
        """Send a packed command and wait for its reply."""
        return self._send(effect)

    async def close(self) -> None:
        for pool in self._nodes.close():
            await pool.close()
        if self._on_close:
            await self._on_close()

    def tag_of_each_node(self) -> list[str]:
        """Return a hash tag for each node with rooms, after a first call."""
        return self._nodes.tag_of_each_node()

    @abstractmethod
    async def _send(self, effect: Send) -> Any:
        """Send a call and wait for its reply."""


class AsyncNodeTransport(AsyncTransport):
    """To one server."""

    def __init__(self, pool: AsyncNodePool, shown: str, on_close: Callable[[], Awaitable[None]] | None = None) -> None:
        super().__init__(OneNode(pool), shown, on_close)
        self._node_pool = pool
        self.can_block = pool.can_block
        self.call_packed = pool.call_packed  # type: ignore[method-assign] # one frame less in the hot call

    @property
    def limit(self) -> float:
        return self._node_pool.limit

    def clone(self) -> AsyncTransport:
        return AsyncNodeTransport(self._node_pool.clone(), self._shown)

    async def _send(self, effect: Send) -> Any:
        return await self._node_pool.call(effect)


class AsyncClusterTransport(AsyncTransport):
    """To the nodes of a Redis Cluster."""

    def __init__(self, nodes: ClusterNodes[AsyncNodePool], deadline: float, shown: str) -> None:
        super().__init__(nodes, shown)
        self._cluster = nodes
        self._deadline = deadline
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()

    @property
    def limit(self) -> float:
        return time_limit(self._cluster.options, self._deadline)

    def clone(self) -> AsyncTransport:
        return AsyncClusterTransport(self._cluster.clone(), self._deadline, self._shown)

    async def _send(self, effect: Send) -> Any:
        slot_map = self._cluster.slot_map
        try:
            if slot_map.stale:
                began = time.monotonic()
                await self._read_map_once((effect.timeout or self._deadline) / 2)
                count_towards(effect, self._deadline, time.monotonic() - began)
            return await self._cluster.pool_for(effect).call(effect)
        except ResponseError:
            raise
        except asyncio.CancelledError:
            # It says nothing of the node. What was sent goes on, and will tell; if nothing was, the node may be away.
            if effect.rest is None:
                slot_map.stale = True
            else:
                effect.rest.add_done_callback(self._rest_ended)
            raise
        except BaseException:
            slot_map.stale = True  # the slots may have other owners now
            raise

    def _rest_ended(self, rest: asyncio.Task[Any]) -> None:
        if not rest.cancelled() and not isinstance(rest.exception(), ResponseError | None):
            self._cluster.slot_map.stale = True

    async def _read_map_once(self, seconds: float) -> None:
        """Read the slot map, or wait until another task has."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._lock = loop, asyncio.Lock()
        try:
            async with asyncio.timeout(seconds), self._lock:
                if self._cluster.slot_map.stale:
                    await self._read_map(seconds)
        except TimeoutError as error:
            raise NotSent from error

    async def _read_map(self, seconds: float) -> None:
        """Read the slot map from one node after the other, within ``seconds`` in all."""
        sources = self._cluster.sources_of_map()
        failure: BaseException = RedisConnectionError("no node of the cluster knows any slot")
        for address, pool in sources:
            try:
                reply = await pool.call(Send("", CLUSTER_SLOTS, seconds / len(sources)))
            except NotSent as error:
                failure = error.__cause__ or error
            except (RedisError, OSError) as error:
                failure = error
            else:
                if self._cluster.slot_map.learn(reply, address):
                    return
        raise NotSent from failure
