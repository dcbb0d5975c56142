"""Makes the transport of a store, from a URL or from the user's client. It does no I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio as redis
from redis.asyncio.sentinel import Sentinel

from redis_kvpoll.aio.connections import AsyncNodePool
from redis_kvpoll.aio.transport import AsyncClusterTransport, AsyncNodeTransport, AsyncTransport
from redis_kvpoll.errors import InvalidInputError
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


def transport_for(client: Any, deadline: float) -> AsyncTransport:
    """Return a transport with the options of the user's client; a transport, which only ``from_url`` gives, as it is.

    The client itself is neither changed nor closed.
    """
    if isinstance(client, AsyncTransport):
        return client
    if isinstance(client, redis.RedisCluster):
        connection_class, options, slot_map = _read_cluster(client)
        return _to_cluster(connection_class, options, slot_map, deadline, shown_client(client, slot_map.nodes()))
    if isinstance(client, redis.Redis):
        return AsyncNodeTransport(_node_pool(client, deadline), shown_client(client))
    raise _wrong_client(client)


def transport_from_url(url: str, deadline: float) -> AsyncTransport:
    """Return the transport for a URL, with a client (and for embedded:// a server) of its own."""
    target = parse(url)
    if target.kind == "memory":
        return AsyncNodeTransport(_node_pool(in_memory_redis().FakeAsyncRedis(), deadline), target.shown)
    if target.kind == "embedded":
        server = EmbeddedServer()
        client = redis.Redis(unix_socket_path=str(server.socket))
        return AsyncNodeTransport(_node_pool(client, deadline), f"{target.shown} at {server.url}", _stop(server))
    if target.kind == "cluster":
        connection_class, options = cluster_connection(target, redis)
        return _to_cluster(connection_class, options, SlotMap(target.hosts), deadline, target.shown)
    client = checked_client(target, lambda: _client(target, deadline))
    return AsyncNodeTransport(_node_pool(client, deadline), target.shown, client.aclose)


def _node_pool(client: redis.Redis, deadline: float) -> AsyncNodePool:
    pool = client.connection_pool
    # The pool must keep the client: it owns the Sentinel manager, which connections refer to only weakly.
    return AsyncNodePool(pool.connection_class, pool.connection_kwargs, deadline, keep=client)


def _read_cluster(client: redis.RedisCluster) -> tuple[Any, dict[str, Any], SlotMap]:
    """Return the class and options of a cluster client's connections, and a slot map of its nodes."""
    manager = client.nodes_manager
    nodes = [*manager.nodes_cache.values(), *manager.startup_nodes.values()]
    slot_map = SlotMap([(node.host, int(node.port)) for node in nodes], manager.remap_host_port)
    return nodes[0].connection_class, nodes[0].connection_kwargs, slot_map


def _wrong_client(client: Any) -> InvalidInputError:
    takes = "redis.asyncio.Redis or redis.asyncio.RedisCluster"
    return wrong_client(client, "AsyncStatusStore", takes, "StatusStore")


def _stop(server: EmbeddedServer) -> Callable[[], Awaitable[None]]:
    return lambda: asyncio.to_thread(server.stop)


def _to_cluster(
    connection_class: Any, options: dict[str, Any], slot_map: SlotMap, deadline: float, shown: str
) -> AsyncClusterTransport:
    def make_pool(node_options: dict[str, Any]) -> AsyncNodePool:
        return AsyncNodePool(connection_class, node_options, deadline)

    nodes = ClusterNodes(make_pool, options, slot_map, lambda node_options: make_pool(node_options).clone())
    return AsyncClusterTransport(nodes, deadline, shown)


def _client(target: Target, deadline: float) -> redis.Redis:
    if target.kind == "single":
        return redis.Redis(**server_options(target))
    sentinel = _AsyncUnpooledSentinel(
        target.hosts, sentinel_kwargs=sentinel_options(target, deadline), **target.options
    )  # type: ignore[no-untyped-call]
    client: redis.Redis = sentinel.master_for(target.service)
    return client


class _AsyncUnpooledSentinel(Sentinel):
    """Keeps no connection to a Sentinel: requests are rare, and the connection would outlive the store."""

    async def discover_master(self, service_name: str) -> Any:
        try:
            return await super().discover_master(service_name)
        finally:
            for observer in self.sentinels:
                await observer.connection_pool.disconnect(inuse_connections=False)
