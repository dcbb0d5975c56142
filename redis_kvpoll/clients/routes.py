"""Routes: take the steps of a flow over blocking connections."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import redis
from redis.cluster import ClusterNode
from redis.exceptions import RedisClusterException, RedisError, ResponseError
from redis.sentinel import Sentinel

from redis_kvpoll.clients.embedded import EmbeddedServer
from redis_kvpoll.clients.endpoint import (
    MAX_IDLE,
    connection_options,
    options_of,
    pack,
    time_limit,
    warn_of_memory,
    wrong_client,
)
from redis_kvpoll.clients.urls import Target, parse
from redis_kvpoll.delivery import Pause, Send, Step
from redis_kvpoll.faults import NotSent


class Endpoint:
    """One server, and our idle connections to it."""

    def __init__(self, pool: Any, deadline: float) -> None:
        self._class = pool.connection_class
        self._options = connection_options(pool.connection_kwargs)
        self.limit = time_limit(self._options, deadline)
        self.idle: list[Any] = []

    def connection(self, timeout: float | None, fresh: bool) -> Any:
        """A connection for one call: idle or new. ``timeout`` (seconds) shortens the usual one."""
        if timeout is not None and timeout < self.limit:
            return self._connect(timeout)
        pid = os.getpid()
        while self.idle:
            try:
                connection = self.idle.pop()
            except IndexError:
                break  # another thread was faster
            if connection.pid != pid:
                continue  # the parent's, from before a fork
            if fresh and not _is_open(connection):
                connection.disconnect()
                continue
            return connection
        return self._connect(self.limit)

    def give_back(self, connection: Any) -> None:
        """Keep a connection for the next call, unless it was made for a short one."""
        if len(self.idle) < MAX_IDLE and connection.socket_timeout == self.limit:
            self.idle.append(connection)
        else:
            connection.disconnect()

    def _connect(self, timeout: float) -> Any:
        options = self._options | {"socket_timeout": timeout, "socket_connect_timeout": timeout}
        connection = self._class(**options)
        connection.connect()
        return connection


def _is_open(connection: Any) -> bool:
    """Whether an idle connection is still good. Nothing is due on it, so anything to read means it is not."""
    try:
        return not connection.can_read(0)
    except (RedisError, OSError):
        return False


class Route:
    """The way to one server, or by Sentinel to whichever is primary."""

    clustered = False

    def __init__(self, client: Any, deadline: float, shown: str, on_close: Callable[[], None] | None = None) -> None:
        self._shown = shown
        self._client = client  # its pool holds the Sentinel manager, by a weak reference
        self._endpoint = Endpoint(client.connection_pool, deadline)
        self._on_close = on_close

    def __str__(self) -> str:
        return self._shown

    def take(self, step: Step) -> Any:
        """Do what a flow asks for."""
        if isinstance(step, Send):
            return self._send(step)
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        return self._reroute(step.moved)

    def close(self) -> None:
        endpoints = self._endpoints()
        for endpoint in endpoints:
            while endpoint.idle:
                endpoint.idle.pop().disconnect()
        if self._on_close:
            self._on_close()

    def _send(self, step: Send) -> Any:
        try:
            endpoint = self._endpoint_for(step)
            connection = endpoint.connection(step.timeout, step.fresh)
        except (RedisError, RedisClusterException, OSError) as error:
            self._lost()
            raise NotSent from error
        try:
            if step.asking:
                connection.send_command("ASKING")
                connection.read_response()
            connection.send_packed_command([pack(step.words)])
            reply = connection.read_response()
        except ResponseError:
            endpoint.give_back(connection)
            raise
        except BaseException:
            connection.disconnect()
            self._lost()
            raise
        endpoint.give_back(connection)
        return reply

    def _endpoint_for(self, step: Send) -> Endpoint:
        return self._endpoint

    def _endpoints(self) -> list[Endpoint]:
        return [self._endpoint]

    def _lost(self) -> None:
        """A server did not answer."""

    def _reroute(self, moved: Any) -> None:
        """Only clusters move slots."""


class ClusterRoute(Route):
    """The ways to the nodes of a Redis Cluster; redis-py's client keeps the map of slots."""

    clustered = True

    def __init__(
        self,
        connect: Callable[[], redis.RedisCluster],
        deadline: float,
        shown: str,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._shown = shown
        self._connect = connect
        self._deadline = deadline
        self._cluster: redis.RedisCluster | None = None
        self._by_node: dict[str, Endpoint] = {}
        self._slots: dict[str, int] = {}
        self._stale = False
        self._on_close = on_close

    def _endpoint_for(self, step: Send) -> Endpoint:
        # RedisCluster reads the map of slots when it is made, so it is made with the first call.
        if self._cluster is None:
            self._cluster = self._connect()
        cluster = self._cluster
        if self._stale:
            cluster.nodes_manager.initialize()
            self._stale = False
        if step.asking:
            node = cluster.get_node(*step.asking)
            if node is None:
                self._stale = True
                raise RedisClusterException(f"the cluster redirected to {step.asking}, which it does not list")
        else:
            slot = self._slots.get(step.tag)
            if slot is None:
                slot = self._slots[step.tag] = cluster.keyslot(step.tag)
            node = cluster.nodes_manager.get_node_from_slot(slot)
        endpoint = self._by_node.get(node.name)
        if endpoint is None:
            pool = cluster.get_redis_connection(node).connection_pool
            endpoint = self._by_node.setdefault(node.name, Endpoint(pool, self._deadline))
        return endpoint

    def _endpoints(self) -> list[Endpoint]:
        return list(self._by_node.values())

    def _lost(self) -> None:
        self._stale = True

    def _reroute(self, moved: Any) -> None:
        if self._cluster:
            self._cluster.nodes_manager.move_slot(moved)


def route_for(client: Any, deadline: float) -> Route:
    """The route over a client that the user made. The client itself is neither changed nor closed."""
    if isinstance(client, redis.RedisCluster):
        return ClusterRoute(lambda: client, deadline, shown="a RedisCluster client")
    if isinstance(client, redis.Redis):
        return Route(client, deadline, shown=f"a {type(client).__name__} client")
    raise wrong_client(client, "StatusStore", "redis.Redis or redis.RedisCluster", "AsyncStatusStore")


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


def _sentinel_client(target: Target, deadline: float) -> redis.Redis:
    watchers = {"socket_timeout": deadline, **target.sentinel_options}
    sentinel = Sentinel(target.hosts, sentinel_kwargs=watchers, **target.options)
    client: redis.Redis = sentinel.master_for(target.service)
    return client


def _open_cluster(target: Target, deadline: float) -> ClusterRoute:
    with options_of(target):
        redis.Connection(**connection_options({k: v for k, v in target.options.items() if k != "ssl"}))
    opened: list[redis.RedisCluster] = []

    def connect() -> redis.RedisCluster:
        nodes = [ClusterNode(host, port) for host, port in target.hosts]
        options: dict[str, Any] = {"socket_timeout": deadline, **target.options}
        opened.append(redis.RedisCluster(startup_nodes=nodes, **options))
        return opened[0]

    def close() -> None:
        for cluster in opened:
            cluster.close()

    return ClusterRoute(connect, deadline, target.shown, close)
