"""Routes: take the effects of a flow over blocking connections."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Effect, FollowRedirect, Send, Sleep
from redis_kvpoll.sync.connections import NodePool, readable
from redis_kvpoll.transport.connection_options import time_limit
from redis_kvpoll.transport.nodes import ClusterNodes, OneNode
from redis_kvpoll.transport.slot_map import CLUSTER_SLOTS, SlotMap

Pending: TypeAlias = tuple[NodePool, Any, Send]
"""A call that was sent, and the connection that its reply will come over."""


class Transport(ABC):
    """What a store sends its effects to. ``shown`` names it for people; ``on_close`` closes what it was opened on."""

    def __init__(
        self, ways: OneNode[NodePool] | ClusterNodes[NodePool], shown: str, on_close: Callable[[], None] | None = None
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
    def twin(self) -> Transport:
        """To the same place, with connections and a map of slots of its own; what was opened stays this one's."""

    def take(self, effect: Effect) -> Any:
        """Do what a flow asks for."""
        if isinstance(effect, Send):
            return self.finish(*self.begin(effect))
        if isinstance(effect, Sleep):
            return time.sleep(effect.seconds)
        if isinstance(effect, FollowRedirect):
            return self._ways.reroute(effect.redirect)
        raise AssertionError("a driver waits for calls itself")

    def cut(self) -> None:
        """End the calls that are under way, from another thread: they lose their connection."""
        for node_pool in self._ways.node_pools():
            node_pool.cut()

    def close(self) -> None:
        for node_pool in self._ways.node_pools():
            node_pool.close()
        if self._on_close:
            self._on_close()

    @abstractmethod
    def begin(self, effect: Send) -> Pending:
        """Send, without waiting for the reply."""

    def finish(self, node_pool: NodePool, connection: Any, effect: Send) -> Any:
        """Wait for the reply to what was sent."""
        return node_pool.receive(connection, effect)

    def give_up(self, node_pool: NodePool, connection: Any, effect: Send) -> None:
        """Do not wait for the reply to what was sent."""
        node_pool.drop(connection)

    def ready(self, pending: Iterable[Pending], seconds: float) -> list[Any]:
        """Wait until a reply comes in over one of these connections; over which there is one."""
        return readable([connection for _, connection, _ in pending], seconds)

    @abstractmethod
    def doubts(self, effect: Send) -> bool:
        """Whether sending this may take long, by what came of the last try."""


class NodeTransport(Transport):
    """To one server."""

    def __init__(self, node_pool: NodePool, shown: str, on_close: Callable[[], None] | None = None) -> None:
        super().__init__(OneNode(node_pool), shown, on_close)
        self._node_pool = node_pool
        self.can_block = node_pool.can_block

    @property
    def limit(self) -> float:
        return self._node_pool.limit

    def twin(self) -> Transport:
        return NodeTransport(self._node_pool.twin(), self._shown)

    def begin(self, effect: Send) -> Pending:
        return self._node_pool, self._node_pool.send(effect), effect

    def doubts(self, effect: Send) -> bool:
        return self._node_pool.doubtful


class ClusterTransport(Transport):
    """To the nodes of a Redis Cluster."""

    def __init__(self, ways: ClusterNodes[NodePool], deadline: float, shown: str) -> None:
        super().__init__(ways, shown)
        self._nodes = ways
        self._deadline = deadline

    @property
    def limit(self) -> float:
        return time_limit(self._nodes.options, self._deadline)

    def twin(self) -> Transport:
        return ClusterTransport(self._nodes.twin(), self._deadline, self._shown)

    def begin(self, effect: Send) -> Pending:
        with self._suspicious() as slot_map:
            if slot_map.stale:
                self._read_map((effect.timeout or self._deadline) / 2)
            node_pool = self._nodes.pool_for(effect)
            return node_pool, node_pool.send(effect), effect

    def finish(self, node_pool: NodePool, connection: Any, effect: Send) -> Any:
        with self._suspicious():
            return node_pool.receive(connection, effect)

    def give_up(self, node_pool: NodePool, connection: Any, effect: Send) -> None:
        self._nodes.slot_map.stale = True
        super().give_up(node_pool, connection, effect)

    def doubts(self, effect: Send) -> bool:
        try:
            return self._nodes.slot_map.stale or self._nodes.pool_for(effect).doubtful
        except NotSent:
            return True

    @contextlib.contextmanager
    def _suspicious(self) -> Iterator[SlotMap]:
        """A connection that fails may mean that the nodes have changed their parts."""
        slot_map = self._nodes.slot_map
        try:
            yield slot_map
        except ResponseError:
            raise
        except BaseException:
            slot_map.stale = True
            raise

    def _read_map(self, seconds: float) -> None:
        """Ask one node after another for the map of slots; together they have ``seconds``."""
        slot_map = self._nodes.slot_map
        addresses = slot_map.nodes()
        failure: BaseException = RedisConnectionError("no node of the cluster knows of any slot")
        for address in addresses:
            try:
                reply = self._nodes.pool_at(address).call(Send("", CLUSTER_SLOTS, seconds / len(addresses)))
            except NotSent as error:
                failure = error.__cause__ or error
            except (RedisError, OSError) as error:
                failure = error
            else:
                if slot_map.learn(reply, address):
                    return
        raise NotSent from failure
