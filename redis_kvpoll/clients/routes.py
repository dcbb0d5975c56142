"""Routes: take the steps of a flow over blocking connections."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, RedisError, ResponseError
from redis.sentinel import Sentinel

from redis_kvpoll.clients.connections import Endpoint
from redis_kvpoll.clients.embedded import EmbeddedServer
from redis_kvpoll.clients.endpoint import (
    connection_options,
    options_of,
    sentinel_options,
    warn_of_memory,
    wrong_client,
)
from redis_kvpoll.clients.topology import CLUSTER_SLOTS, Address, Topology
from redis_kvpoll.clients.urls import Target, parse
from redis_kvpoll.faults import NotSent
from redis_kvpoll.steps import Pause, Send, Step


class Route:
    """The way to one server, or by Sentinel to whichever is primary."""

    clustered = False

    def __init__(self, client: Any, deadline: float, shown: str, on_close: Callable[[], None] | None = None) -> None:
        self._shown = shown
        self._client = client  # its pool holds the Sentinel manager, by a weak reference
        pool = client.connection_pool
        self._endpoint = Endpoint(pool.connection_class, pool.connection_kwargs, deadline)
        self._on_close = on_close

    def __str__(self) -> str:
        return self._shown

    def take(self, step: Step) -> Any:
        """Do what a flow asks for."""
        if isinstance(step, Send):
            return self._send(step)
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        return self._reroute(step.redirect)

    def close(self) -> None:
        for endpoint in self._endpoints():
            endpoint.close()
        if self._on_close:
            self._on_close()

    def _send(self, step: Send) -> Any:
        return self._endpoint.call(step)

    def _endpoints(self) -> list[Endpoint]:
        return [self._endpoint]

    def _reroute(self, redirect: Any) -> bool:
        return False  # only clusters redirect


class ClusterRoute(Route):
    """The ways to the nodes of a Redis Cluster."""

    clustered = True

    def __init__(
        self, connection_class: Any, options: dict[str, Any], topology: Topology, deadline: float, shown: str
    ) -> None:
        self._shown = shown
        self._class = connection_class
        self._options = options
        self._topology = topology
        self._deadline = deadline
        self._by_address: dict[Address, Endpoint] = {}
        self._on_close = None

    def _send(self, step: Send) -> Any:
        try:
            return self._endpoint_for(step).call(step)
        except ResponseError:
            raise
        except BaseException:
            self._topology.stale = True
            raise

    def _endpoint_for(self, step: Send) -> Endpoint:
        topology = self._topology
        if topology.stale:
            self._read_map((step.timeout or self._deadline) / 2)
        if step.asking:
            return self._endpoint_at(topology.redirected(*step.asking))
        try:
            return self._endpoint_at(topology.owner(step.tag))
        except ResponseError as error:
            raise NotSent from error

    def _read_map(self, seconds: float) -> None:
        """Ask one node after another for the map of slots; together they have ``seconds``."""
        nodes = self._topology.nodes()
        failure: BaseException = RedisConnectionError("no node of the cluster knows of any slot")
        for node in nodes:
            try:
                reply = self._endpoint_at(node).call(Send("", CLUSTER_SLOTS, seconds / len(nodes)))
            except NotSent as error:
                failure = error.__cause__ or error
            except (RedisError, OSError) as error:
                failure = error
            else:
                if self._topology.learn(reply, node):
                    return
        raise NotSent from failure

    def _endpoint_at(self, address: Address) -> Endpoint:
        endpoint = self._by_address.get(address)
        if endpoint is None:
            options = self._options | {"host": address[0], "port": address[1]}
            endpoint = self._by_address.setdefault(address, Endpoint(self._class, options, self._deadline))
        return endpoint

    def _endpoints(self) -> list[Endpoint]:
        return list(self._by_address.values())

    def _reroute(self, redirect: Any) -> bool:
        if isinstance(redirect, MovedError):
            self._topology.moved(redirect)
        return True


def route_for(client: Any, deadline: float) -> Route:
    """The route over a client that the user made; a route, which only ``from_url`` gives, is taken as it is.

    The client itself is neither changed nor closed.
    """
    if isinstance(client, Route):
        return client
    if isinstance(client, redis.RedisCluster):
        return _over_cluster(client, deadline)
    if isinstance(client, redis.Redis):
        return Route(client, deadline, shown=f"a {type(client).__name__} client")
    raise wrong_client(client, "StatusStore", "redis.Redis or redis.RedisCluster", "AsyncStatusStore")


def _over_cluster(client: redis.RedisCluster, deadline: float) -> ClusterRoute:
    nodes = client.get_nodes()
    pool = client.get_redis_connection(nodes[0]).connection_pool
    topology = Topology([(node.host, node.port) for node in nodes], client.nodes_manager.remap_host_port)
    return ClusterRoute(
        pool.connection_class, pool.connection_kwargs, topology, deadline, shown=f"a {type(client).__name__} client"
    )


def open_route(url: str, deadline: float) -> Route:
    """The route that a URL names, with a client (and for embedded:// a server) of its own."""
    target = parse(url)
    if target.kind == "memory":
        import fakeredis  # it takes as long to import as all the rest

        warn_of_memory()
        return Route(fakeredis.FakeRedis(), deadline, target.shown)
    if target.kind == "embedded":
        server = EmbeddedServer()
        client = redis.Redis(unix_socket_path=str(server.socket))
        return Route(client, deadline, f"{target.shown} at {server.url}", server.stop)
    if target.kind == "cluster":
        return _open_cluster(target, deadline)
    with options_of(target):
        client = _sentinel_client(target, deadline) if target.kind == "sentinel" else _single_client(target)
        pool = client.connection_pool
        pool.connection_class(**connection_options(pool.connection_kwargs))
    return Route(client, deadline, target.shown, client.close)


def _single_client(target: Target) -> redis.Redis:
    options = dict(target.options)
    if path := options.pop("path", None):
        return redis.Redis(unix_socket_path=path, **options)
    return redis.Redis(**options)


class _Sentinel(Sentinel):
    """Keeps no connection to a Sentinel: it is asked seldom, and the connection would outlive the store."""

    def discover_master(self, service_name: str) -> Any:
        try:
            return super().discover_master(service_name)  # type: ignore[no-untyped-call]
        finally:
            for watcher in self.sentinels:
                watcher.connection_pool.disconnect(inuse_connections=False)


def _sentinel_client(target: Target, deadline: float) -> redis.Redis:
    watchers = sentinel_options(target, deadline)
    sentinel: Sentinel = _Sentinel(target.hosts, sentinel_kwargs=watchers, **target.options)  # type: ignore[no-untyped-call]
    client: redis.Redis = sentinel.master_for(target.service)
    return client


def _open_cluster(target: Target, deadline: float) -> ClusterRoute:
    options = dict(target.options)
    connection_class = redis.SSLConnection if options.pop("ssl", False) else redis.Connection
    with options_of(target):
        connection_class(**connection_options(options))
    return ClusterRoute(connection_class, options, Topology(target.hosts), deadline, target.shown)
