"""From a URL, or a client that the user made, to an asyncio route. The same as ``opening``; nothing is awaited here."""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio as redis
from redis.asyncio.sentinel import Sentinel

from redis_kvpoll.aio.connections import Endpoint
from redis_kvpoll.aio.transport import ClusterRoute, Route, ServerRoute
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
        manager = client.nodes_manager
        nodes = [*manager.nodes_cache.values(), *manager.startup_nodes.values()]
        topology = Topology([(node.host, int(node.port)) for node in nodes], manager.remap_host_port)
        return _to_cluster(nodes[0].connection_class, nodes[0].connection_kwargs, topology, deadline, shown)
    if isinstance(client, redis.Redis):
        return ServerRoute(_endpoint(client, deadline), shown)
    takes = "redis.asyncio.Redis or redis.asyncio.RedisCluster"
    raise wrong_client(client, "AsyncStatusStore", takes, "StatusStore")


def open_route(url: str, deadline: float) -> Route:
    """The route that a URL names, with a client (and for embedded:// a server) of its own."""
    target = parse(url)
    if target.kind == "memory":
        import fakeredis  # it takes as long to import as all the rest

        warn_of_memory()
        return ServerRoute(_endpoint(fakeredis.FakeAsyncRedis(), deadline), target.shown)
    if target.kind == "embedded":
        server = EmbeddedServer()
        client = redis.Redis(unix_socket_path=str(server.socket))
        shown = f"{target.shown} at {server.url}"
        return ServerRoute(_endpoint(client, deadline), shown, lambda: asyncio.to_thread(server.stop))
    if target.kind == "cluster":
        connection_class, options = cluster_connection(target, redis)
        return _to_cluster(connection_class, options, Topology(target.hosts), deadline, target.shown)
    client = checked_client(target, lambda: _client(target, deadline))
    return ServerRoute(_endpoint(client, deadline), target.shown, client.aclose)


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
    client: redis.Redis = sentinel.master_for(target.service)
    return client


class _Sentinel(Sentinel):
    """Keeps no connection to a Sentinel: it is asked seldom, and the connection would outlive the store."""

    async def discover_master(self, service_name: str) -> Any:
        try:
            return await super().discover_master(service_name)
        finally:
            for watcher in self.sentinels:
                await watcher.connection_pool.disconnect(inuse_connections=False)
