"""Routes: take the steps of a flow over blocking connections."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Pause, Reroute, Send, Step
from redis_kvpoll.sync.connections import Endpoint, readable
from redis_kvpoll.transport.connection_options import time_limit
from redis_kvpoll.transport.nodes import ToCluster, ToServer
from redis_kvpoll.transport.slot_map import CLUSTER_SLOTS, Topology

Pending: TypeAlias = tuple[Endpoint, Any, Send]
"""A call that was sent, and the connection that its reply will come over."""


class Route(ABC):
    """What a store sends its steps to. ``shown`` names it for people; ``on_close`` closes what it was opened on."""

    def __init__(
        self, ways: ToServer[Endpoint] | ToCluster[Endpoint], shown: str, on_close: Callable[[], None] | None = None
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

    def take(self, step: Step) -> Any:
        """Do what a flow asks for."""
        if isinstance(step, Send):
            return self.finish(*self.begin(step))
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        if isinstance(step, Reroute):
            return self._ways.reroute(step.redirect)
        raise AssertionError("whoever drives a flow sees to its riders")

    def cut(self) -> None:
        """End the calls that are under way, from another thread: they lose their connection."""
        for endpoint in self._ways.endpoints():
            endpoint.cut()

    def close(self) -> None:
        for endpoint in self._ways.endpoints():
            endpoint.close()
        if self._on_close:
            self._on_close()

    @abstractmethod
    def begin(self, step: Send) -> Pending:
        """Send, without waiting for the reply."""

    def finish(self, endpoint: Endpoint, connection: Any, step: Send) -> Any:
        """Wait for the reply to what was sent."""
        return endpoint.receive(connection, step)

    def give_up(self, endpoint: Endpoint, connection: Any, step: Send) -> None:
        """Do not wait for the reply to what was sent."""
        endpoint.drop(connection)

    def ready(self, pending: Iterable[Pending], seconds: float) -> list[Any]:
        """Wait until a reply comes in over one of these connections; over which there is one."""
        return readable([connection for _, connection, _ in pending], seconds)

    @abstractmethod
    def doubts(self, step: Send) -> bool:
        """Whether sending this may take long, by what came of the last try."""


class ServerRoute(Route):
    """To one server."""

    def __init__(self, endpoint: Endpoint, shown: str, on_close: Callable[[], None] | None = None) -> None:
        super().__init__(ToServer(endpoint), shown, on_close)
        self._endpoint = endpoint
        self.can_block = endpoint.can_block

    @property
    def limit(self) -> float:
        return self._endpoint.limit

    def twin(self) -> Route:
        return ServerRoute(self._endpoint.twin(), self._shown)

    def begin(self, step: Send) -> Pending:
        return self._endpoint, self._endpoint.send(step), step

    def doubts(self, step: Send) -> bool:
        return self._endpoint.doubtful


class ClusterRoute(Route):
    """To the nodes of a Redis Cluster."""

    def __init__(self, ways: ToCluster[Endpoint], deadline: float, shown: str) -> None:
        super().__init__(ways, shown)
        self._nodes = ways
        self._deadline = deadline

    @property
    def limit(self) -> float:
        return time_limit(self._nodes.options, self._deadline)

    def twin(self) -> Route:
        return ClusterRoute(self._nodes.twin(), self._deadline, self._shown)

    def begin(self, step: Send) -> Pending:
        with self._suspicious() as topology:
            if topology.stale:
                self._read_map((step.timeout or self._deadline) / 2)
            endpoint = self._nodes.endpoint_for(step)
            return endpoint, endpoint.send(step), step

    def finish(self, endpoint: Endpoint, connection: Any, step: Send) -> Any:
        with self._suspicious():
            return endpoint.receive(connection, step)

    def give_up(self, endpoint: Endpoint, connection: Any, step: Send) -> None:
        self._nodes.topology.stale = True
        super().give_up(endpoint, connection, step)

    def doubts(self, step: Send) -> bool:
        try:
            return self._nodes.topology.stale or self._nodes.endpoint_for(step).doubtful
        except NotSent:
            return True

    @contextlib.contextmanager
    def _suspicious(self) -> Iterator[Topology]:
        """A connection that fails may mean that the nodes have changed their parts."""
        topology = self._nodes.topology
        try:
            yield topology
        except ResponseError:
            raise
        except BaseException:
            topology.stale = True
            raise

    def _read_map(self, seconds: float) -> None:
        """Ask one node after another for the map of slots; together they have ``seconds``."""
        topology = self._nodes.topology
        addresses = topology.nodes()
        failure: BaseException = RedisConnectionError("no node of the cluster knows of any slot")
        for address in addresses:
            try:
                reply = self._nodes.endpoint_at(address).call(Send("", CLUSTER_SLOTS, seconds / len(addresses)))
            except NotSent as error:
                failure = error.__cause__ or error
            except (RedisError, OSError) as error:
                failure = error
            else:
                if topology.learn(reply, address):
                    return
        raise NotSent from failure
