"""Makes the transport of a store, from a URL or from the user's client. It does no I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis
from redis.sentinel import Sentinel

from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.sync.connections import NodePool
from redis_kvpoll.sync.transport import ClusterTransport, NodeTransport, Transport
from redis_kvpoll.transport.connection_options import (
    checked_client,
    cluster_connection,
    in_memory_redis,
    sentinel_options,
    server_options,
    shown_client,
    wrong_client,
)
from redis_kvpoll.transport.embedded import EmbeddedServer
from redis_kvpoll.transport.nodes import ClusterNodes
from redis_kvpoll.transport.slot_map import SlotMap
from redis_kvpoll.transport.urls import Target, parse


def transport_for(client: Any, deadline: float) -> Transport:
    """Return a transport with the options of the user's client; a transport, which only ``from_url`` gives, as it is.

    The client itself is neither changed nor closed.
    """
    if isinstance(client, Transport):
        return client
    if isinstance(client, redis.RedisCluster):
        connection_class, options, slot_map = _read_cluster(client)
        return _to_cluster(connection_class, options, slot_map, deadline, shown_client(client, slot_map.nodes()))
    if isinstance(client, redis.Redis):
        return NodeTransport(_node_pool(client, deadline), shown_client(client))
    raise _wrong_client(client)


def transport_from_url(url: str, deadline: float) -> Transport:
    """Return the transport for a URL, with a client (and for embedded:// a server) of its own."""
    target = parse(url)
    if target.kind == "memory":
        return NodeTransport(_node_pool(in_memory_redis().FakeRedis(), deadline), target.shown)
    if target.kind == "embedded":
        server = EmbeddedServer()
        client = redis.Redis(unix_socket_path=str(server.socket))
        return NodeTransport(_node_pool(client, deadline), f"{target.shown} at {server.url}", _stop(server))
    if target.kind == "cluster":
        connection_class, options = cluster_connection(target, redis)
        return _to_cluster(connection_class, options, SlotMap(target.hosts), deadline, target.shown)
    client = checked_client(target, lambda: _client(target, deadline))
    return NodeTransport(_node_pool(client, deadline), target.shown, client.close)


def _node_pool(client: redis.Redis, deadline: float) -> NodePool:
    pool = client.connection_pool
    # The pool must keep the client: it owns the Sentinel manager, which connections refer to only weakly.
    return NodePool(pool.connection_class, pool.connection_kwargs, deadline, keep=client)


def _read_cluster(client: redis.RedisCluster) -> tuple[Any, dict[str, Any], SlotMap]:
    """Return the class and options of a cluster client's connections, and a slot map of its nodes."""
    nodes = client.get_nodes()
    pool = client.get_redis_connection(nodes[0]).connection_pool
    # With dynamic_startup_nodes=False the client keeps its first address, a service name that may lead elsewhere later.
    seeds = [*nodes, *client.nodes_manager.startup_nodes.values()]
    slot_map = SlotMap([(node.host, int(node.port)) for node in seeds], client.nodes_manager.remap_host_port)
    return pool.connection_class, pool.connection_kwargs, slot_map


def _wrong_client(client: Any) -> InvalidInputError:
    return wrong_client(client, "StatusStore", "redis.Redis or redis.RedisCluster", "AsyncStatusStore")


def _stop(server: EmbeddedServer) -> Callable[[], None]:
    return server.stop


def _to_cluster(
    connection_class: Any, options: dict[str, Any], slot_map: SlotMap, deadline: float, shown: str
) -> ClusterTransport:
    def make_pool(node_options: dict[str, Any]) -> NodePool:
        return NodePool(connection_class, node_options, deadline)

    nodes = ClusterNodes(make_pool, options, slot_map, lambda node_options: make_pool(node_options).clone())
    return ClusterTransport(nodes, deadline, shown)


def _client(target: Target, deadline: float) -> redis.Redis:
    if target.kind == "single":
        return redis.Redis(**server_options(target))
    sentinel = _UnpooledSentinel(target.hosts, sentinel_kwargs=sentinel_options(target, deadline), **target.options)  # type: ignore[no-untyped-call]
    client: redis.Redis = sentinel.master_for(target.service)  # type: ignore[no-untyped-call]
    return client


class _UnpooledSentinel(Sentinel):
    """Keeps no connection to a Sentinel: requests are rare, and the connection would outlive the store."""

    def discover_master(self, service_name: str) -> Any:
        try:
            return super().discover_master(service_name)  # type: ignore[no-untyped-call]
        finally:
            for observer in self.sentinels:
                observer.connection_pool.disconnect(inuse_connections=False)
