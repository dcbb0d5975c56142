"""From a URL, or a client that the user made, to a blocking transport."""

from __future__ import annotations

from typing import Any

import redis
from redis.sentinel import Sentinel

from redis_kvpoll.sync.connections import NodePool
from redis_kvpoll.sync.transport import ClusterTransport, NodeTransport, Transport
from redis_kvpoll.transport.connection_options import (
    checked_client,
    cluster_connection,
    in_memory_redis,
    sentinel_options,
    server_options,
    wrong_client,
)
from redis_kvpoll.transport.embedded import EmbeddedServer
from redis_kvpoll.transport.nodes import ClusterNodes
from redis_kvpoll.transport.slot_map import SlotMap
from redis_kvpoll.transport.urls import Target, parse


def transport_for(client: Any, deadline: float) -> Transport:
    """The transport over a client that the user made; a transport, which only ``from_url`` gives, is taken as it is.

    The client itself is neither changed nor closed.
    """
    if isinstance(client, Transport):
        return client
    shown = f"a {type(client).__name__} client"
    if isinstance(client, redis.RedisCluster):
        nodes = client.get_nodes()
        pool = client.get_redis_connection(nodes[0]).connection_pool
        slot_map = SlotMap([(node.host, node.port) for node in nodes], client.nodes_manager.remap_host_port)
        return _to_cluster(pool.connection_class, pool.connection_kwargs, slot_map, deadline, shown)
    if isinstance(client, redis.Redis):
        return NodeTransport(_node_pool(client, deadline), shown)
    raise wrong_client(client, "StatusStore", "redis.Redis or redis.RedisCluster", "AsyncStatusStore")


def transport_from_url(url: str, deadline: float) -> Transport:
    """The transport that a URL names, with a client (and for embedded:// a server) of its own."""
    target = parse(url)
    if target.kind == "memory":
        return NodeTransport(_node_pool(in_memory_redis().FakeRedis(), deadline), target.shown)
    if target.kind == "embedded":
        server = EmbeddedServer()
        client = redis.Redis(unix_socket_path=str(server.socket))
        return NodeTransport(_node_pool(client, deadline), f"{target.shown} at {server.url}", server.stop)
    if target.kind == "cluster":
        connection_class, options = cluster_connection(target, redis)
        return _to_cluster(connection_class, options, SlotMap(target.hosts), deadline, target.shown)
    client = checked_client(target, lambda: _client(target, deadline))
    return NodeTransport(_node_pool(client, deadline), target.shown, client.close)


def _node_pool(client: redis.Redis, deadline: float) -> NodePool:
    pool = client.connection_pool
    # The client goes along: its pool holds the Sentinel manager, and only by a weak reference.
    return NodePool(pool.connection_class, pool.connection_kwargs, deadline, keep=client)


def _to_cluster(
    connection_class: Any, options: dict[str, Any], slot_map: SlotMap, deadline: float, shown: str
) -> ClusterTransport:
    ways = ClusterNodes(lambda of_node: NodePool(connection_class, of_node, deadline), options, slot_map)
    return ClusterTransport(ways, deadline, shown)


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
            for observer in self.sentinels:
                observer.connection_pool.disconnect(inuse_connections=False)
