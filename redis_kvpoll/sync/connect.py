"""From a URL, or a client that the user made, to a blocking route."""

from __future__ import annotations

from typing import Any

import redis
from redis.sentinel import Sentinel

from redis_kvpoll.sync.connections import Endpoint
from redis_kvpoll.sync.transport import ClusterRoute, Route, ServerRoute
from redis_kvpoll.transport.connection_options import (
    checked_client,
    cluster_connection,
    sentinel_options,
    server_options,
    warn_of_memory,
    wrong_client,
)
from redis_kvpoll.transport.embedded import EmbeddedServer
from redis_kvpoll.transport.nodes import ToCluster
from redis_kvpoll.transport.slot_map import Topology
from redis_kvpoll.transport.urls import Target, parse


def route_for(client: Any, deadline: float) -> Route:
    """The route over a client that the user made; a route, which only ``from_url`` gives, is taken as it is.

    The client itself is neither changed nor closed.
    """
    if isinstance(client, Route):
        return client
    shown = f"a {type(client).__name__} client"
    if isinstance(client, redis.RedisCluster):
        nodes = client.get_nodes()
        pool = client.get_redis_connection(nodes[0]).connection_pool
        topology = Topology([(node.host, node.port) for node in nodes], client.nodes_manager.remap_host_port)
        return _to_cluster(pool.connection_class, pool.connection_kwargs, topology, deadline, shown)
    if isinstance(client, redis.Redis):
        return ServerRoute(_endpoint(client, deadline), shown)
    raise wrong_client(client, "StatusStore", "redis.Redis or redis.RedisCluster", "AsyncStatusStore")


def open_route(url: str, deadline: float) -> Route:
    """The route that a URL names, with a client (and for embedded:// a server) of its own."""
    target = parse(url)
    if target.kind == "memory":
        import fakeredis  # it takes as long to import as all the rest

        warn_of_memory()
        return ServerRoute(_endpoint(fakeredis.FakeRedis(), deadline), target.shown)
    if target.kind == "embedded":
        server = EmbeddedServer()
        client = redis.Redis(unix_socket_path=str(server.socket))
        return ServerRoute(_endpoint(client, deadline), f"{target.shown} at {server.url}", server.stop)
    if target.kind == "cluster":
        connection_class, options = cluster_connection(target, redis)
        return _to_cluster(connection_class, options, Topology(target.hosts), deadline, target.shown)
    client = checked_client(target, lambda: _client(target, deadline))
    return ServerRoute(_endpoint(client, deadline), target.shown, client.close)


def _endpoint(client: redis.Redis, deadline: float) -> Endpoint:
    pool = client.connection_pool
    # The client goes along: its pool holds the Sentinel manager, and only by a weak reference.
    return Endpoint(pool.connection_class, pool.connection_kwargs, deadline, keep=client)


def _to_cluster(
    connection_class: Any, options: dict[str, Any], topology: Topology, deadline: float, shown: str
) -> ClusterRoute:
    ways = ToCluster(lambda of_node: Endpoint(connection_class, of_node, deadline), options, topology)
    return ClusterRoute(ways, deadline, shown)


def _client(target: Target, deadline: float) -> redis.Redis:
    if target.kind == "single":
        return redis.Redis(**server_options(target))
    sentinel = _Sentinel(target.hosts, sentinel_kwargs=sentinel_options(target, deadline), **target.options)  # type: ignore[no-untyped-call]
    client: redis.Redis = sentinel.master_for(target.service)  # type: ignore[no-untyped-call]
    return client


class _Sentinel(Sentinel):
    """Keeps no connection to a Sentinel: it is asked seldom, and the connection would outlive the store."""

    def discover_master(self, service_name: str) -> Any:
        try:
            return super().discover_master(service_name)  # type: ignore[no-untyped-call]
        finally:
            for watcher in self.sentinels:
                watcher.connection_pool.disconnect(inuse_connections=False)
