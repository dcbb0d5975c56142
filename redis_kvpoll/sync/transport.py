"""Transports: they perform the effects of a flow over blocking connections.

Invariant: an effect is performed once. No transport retries; the flow decides.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Effect, FollowRedirect, Send, Sleep
from redis_kvpoll.engine.ready_calls import TAKE_FULL_PATH
from redis_kvpoll.sync.connections import NodePool, readable
from redis_kvpoll.transport.connection_options import count_towards, time_limit
from redis_kvpoll.transport.nodes import ClusterNodes, OneNode
from redis_kvpoll.transport.slot_map import CLUSTER_SLOTS, SlotMap


class Node(NamedTuple):
    """One node, for those who ask each of them by itself."""

    address: str
    pool: NodePool
    slots: frozenset[int] | None
    """Those that it owns; None outside of a cluster."""


class Risk(IntEnum):
    """What sending may have to wait for: the higher, the longer."""

    NONE = 0
    STALE_MAP = 1
    """The slot map is read first, from any node that answers."""
    FAILED_NODE = 2
    """The last try of this very node failed, so connecting may take the whole time of the call."""


InFlight: TypeAlias = tuple[NodePool, Any, Send]
"""A call that was sent: the connection that its reply comes over, and its pool."""


class Transport(ABC):
    """Where a store sends its effects. ``shown`` is its name in messages; ``on_close`` closes what it was opened on."""

    def __init__(
        self, nodes: OneNode[NodePool] | ClusterNodes[NodePool], shown: str, on_close: Callable[[], None] | None = None
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

    def call_packed(self, packed: bytes, server: bytes | None) -> Any:
        """As ``NodePool.call_packed``, if there is only one server, else TAKE_FULL_PATH."""
        return TAKE_FULL_PATH

    @abstractmethod
    def clone(self) -> Transport:
        """Return a transport to the same server, with its own connections and slot map, without ``on_close``."""

    @abstractmethod
    def nodes(self, seconds: float) -> list[Node]:
        """Return the nodes, replicas of a cluster included. A cluster is asked which they are, within ``seconds``."""

    def perform(self, effect: Effect) -> Any:
        """Perform an effect and return its result."""
        if isinstance(effect, Send):
            return self.finish(*self.begin(effect))
        if isinstance(effect, Sleep):
            return time.sleep(effect.seconds)
        if isinstance(effect, FollowRedirect):
            return self._nodes.follow_redirect(effect.redirect)
        raise AssertionError("AwaitCalls is the dispatcher's")

    def cut(self) -> None:
        """End the calls in flight, from another thread: they lose their connection."""
        for pool in self._nodes.pools():
            pool.cut()

    def close(self) -> None:
        for pool in self._nodes.close():
            pool.close()
        if self._on_close:
            self._on_close()

    @abstractmethod
    def begin(self, effect: Send) -> InFlight:
        """Send, without waiting for the reply."""

    def tag_of_each_node(self) -> list[str]:
        """Return a hash tag for each node with rooms, after a first call."""
        return self._nodes.tag_of_each_node()

    def finish(self, pool: NodePool, connection: Any, effect: Send) -> Any:
        """Wait for the reply to a call in flight."""
        return pool.receive(connection, effect)

    def time_out(self, pool: NodePool, connection: Any, effect: Send) -> None:
        """Close the connection of a call in flight whose reply did not come in time."""
        pool.time_out(connection, effect)

    def abandon(self, pool: NodePool, connection: Any, effect: Send) -> None:
        """Close the connection of a call in flight whose thread was interrupted."""
        connection.disconnect()

    def readable(self, calls: Iterable[InFlight], seconds: float) -> list[Any]:
        """Wait until one of the calls in flight has a reply; return the connections that have one."""
        return readable([connection for _, connection, _ in calls], seconds)

    @abstractmethod
    def pool_for(self, effect: Send) -> NodePool | None:
        """Return the connections that this would be sent over; None if no node is known to have the slot."""

    @abstractmethod
    def risk(self, effect: Send) -> Risk:
        """Return what sending this may have to wait for."""


class NodeTransport(Transport):
    """To one server."""

    def __init__(self, pool: NodePool, shown: str, on_close: Callable[[], None] | None = None) -> None:
        super().__init__(OneNode(pool), shown, on_close)
        self._node_pool = pool
        self.can_block = pool.can_block
        self.call_packed = pool.call_packed  # type: ignore[method-assign] # one frame less in the hot call

    @property
    def limit(self) -> float:
        return self._node_pool.limit

    def clone(self) -> Transport:
        return NodeTransport(self._node_pool.clone(), self._shown)

    def nodes(self, seconds: float) -> list[Node]:
        return [Node(self._shown, self._node_pool, None)]

    def begin(self, effect: Send) -> InFlight:
        return self._node_pool, self._node_pool.send(effect), effect

    def pool_for(self, effect: Send) -> NodePool | None:
        return self._node_pool

    def risk(self, effect: Send) -> Risk:
        return Risk.FAILED_NODE if self._node_pool.last_try_failed else Risk.NONE


class ClusterTransport(Transport):
    """To the nodes of a Redis Cluster."""

    def __init__(self, nodes: ClusterNodes[NodePool], deadline: float, shown: str) -> None:
        super().__init__(nodes, shown)
        self._cluster = nodes
        self._deadline = deadline

    @property
    def limit(self) -> float:
        return time_limit(self._cluster.options, self._deadline)

    def clone(self) -> Transport:
        return ClusterTransport(self._cluster.clone(), self._deadline, self._shown)

    def nodes(self, seconds: float) -> list[Node]:
        self._read_map(seconds)
        slot_map, cluster = self._cluster.slot_map, self._cluster
        return [
            Node(f"{host}:{port}", cluster.pool_at((host, port)), slot_map.slots_of((host, port)))
            for host, port in slot_map.members
        ]

    def begin(self, effect: Send) -> InFlight:
        with self._stale_on_failure() as slot_map:
            if slot_map.stale:
                began = time.monotonic()
                self._read_map((effect.timeout or self._deadline) / 2)
                count_towards(effect, self._deadline, time.monotonic() - began)
            pool = self._cluster.pool_for(effect)
            return pool, pool.send(effect), effect

    def finish(self, pool: NodePool, connection: Any, effect: Send) -> Any:
        with self._stale_on_failure():
            return pool.receive(connection, effect)

    def time_out(self, pool: NodePool, connection: Any, effect: Send) -> None:
        self._cluster.slot_map.stale = True
        super().time_out(pool, connection, effect)

    def pool_for(self, effect: Send) -> NodePool | None:
        try:
            return self._cluster.pool_for(effect)
        except NotSent:
            return None

    def risk(self, effect: Send) -> Risk:
        pool = self.pool_for(effect)
        if pool is not None and pool.last_try_failed:
            return Risk.FAILED_NODE
        return Risk.STALE_MAP if pool is None or self._cluster.slot_map.stale else Risk.NONE

    @contextlib.contextmanager
    def _stale_on_failure(self) -> Iterator[SlotMap]:
        """Mark the slot map stale when a connection fails: the slots may have other owners now."""
        slot_map = self._cluster.slot_map
        try:
            yield slot_map
        except ResponseError:
            raise
        except BaseException:
            slot_map.stale = True
            raise

    def _read_map(self, seconds: float) -> None:
        """Read the slot map from one node after the other, within ``seconds`` in all."""
        sources = self._cluster.sources_of_map()
        failure: BaseException = RedisConnectionError("no node of the cluster knows any slot")
        for address, pool in sources:
            try:
                reply = pool.call(Send("", CLUSTER_SLOTS, seconds / len(sources)))
            except NotSent as error:
                failure = error.__cause__ or error
            except (RedisError, OSError) as error:
                failure = error
            else:
                if self._cluster.slot_map.learn(reply, address):
                    return
        raise NotSent from failure
