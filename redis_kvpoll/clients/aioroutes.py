"""Routes: take the steps of a flow over asyncio connections. The same as ``routes``, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio as redis
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisClusterException, RedisError, ResponseError

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
    """One server, and our connections to it: at most MAX_IDLE, for which calls wait in line."""

    def __init__(self, connection_class: Any, client_options: dict[str, Any], deadline: float) -> None:
        self._class = connection_class
        self.limit = time_limit(client_options, deadline)
        # The time limit is set around a whole call, here; one inside each send and read would cost more.
        self._options = connection_options(client_options) | {"socket_timeout": None, "socket_connect_timeout": None}
        self._idle: list[Any] = []
        self._places = asyncio.Semaphore(MAX_IDLE)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def call(self, step: Send) -> Any:
        """Send a call over one connection and read its reply."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Connections live and die with their event loop; another one (a second asyncio.run) starts afresh.
            self._loop, self._idle, self._places = loop, [], asyncio.Semaphore(MAX_IDLE)
        async with self._places:
            limit = self.limit if step.timeout is None else min(step.timeout, self.limit)
            connection, sent = None, False
            try:
                async with asyncio.timeout(limit):
                    connection = await self._connection(step.fresh)
                    sent = True
                    if step.asking:
                        await connection.send_command("ASKING")
                        await connection.read_response()
                    await connection.send_packed_command(pack(step.words))
                    reply = await connection.read_response()
            except ResponseError:
                self._idle.append(connection)
                raise
            except BaseException as error:
                if connection is not None:
                    await connection.disconnect(nowait=True)
                if not sent and isinstance(error, RedisError | OSError):
                    raise NotSent from error
                if type(error) is TimeoutError:
                    raise TimeoutError(f"no reply within {limit:.3g} s") from None
                raise
            self._idle.append(connection)
            return reply

    async def _connection(self, fresh: bool) -> Any:
        while self._idle:
            connection = self._idle.pop()
            if not fresh or await _is_open(connection):
                return connection
            await connection.disconnect(nowait=True)
        connection = self._class(**self._options)
        await connection.connect()
        return connection

    async def close(self) -> None:
        if self._loop is asyncio.get_running_loop():
            while self._idle:
                await self._idle.pop().disconnect()


async def _is_open(connection: Any) -> bool:
    """Whether an idle connection is still good. Nothing is due on it, so anything to read means it is not."""
    try:
        return not await connection.can_read()
    except (RedisError, OSError):
        return False


class Route:
    """The way to one server, or by Sentinel to whichever is primary."""

    clustered = False

    def __init__(
        self, client: Any, deadline: float, shown: str, on_close: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._shown = shown
        self._client = client  # its pool holds the Sentinel manager, by a weak reference
        pool = client.connection_pool
        self._endpoint = Endpoint(pool.connection_class, pool.connection_kwargs, deadline)
        self._on_close = on_close

    def __str__(self) -> str:
        return self._shown

    async def take(self, step: Step) -> Any:
        """Do what a flow asks for."""
        if isinstance(step, Send):
            return await self._send(step)
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        return await self._reroute(step.moved)

    async def close(self) -> None:
        for endpoint in self._endpoints():
            await endpoint.close()
        if self._on_close:
            await self._on_close()

    async def _send(self, step: Send) -> Any:
        return await self._endpoint.call(step)

    def _endpoints(self) -> list[Endpoint]:
        return [self._endpoint]

    async def _reroute(self, moved: Any) -> None:
        """Only clusters move slots."""


class ClusterRoute(Route):
    """The ways to the nodes of a Redis Cluster; redis-py's client keeps the map of slots."""

    clustered = True

    def __init__(
        self,
        cluster: redis.RedisCluster,
        deadline: float,
        shown: str,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._shown = shown
        self._cluster = cluster
        self._deadline = deadline
        self._by_node: dict[str, Endpoint] = {}
        self._slots: dict[str, int] = {}
        self._stale = True
        self._on_close = on_close

    async def _send(self, step: Send) -> Any:
        try:
            async with asyncio.timeout(step.timeout or self._deadline):
                endpoint = await self._endpoint_for(step)
        except (RedisError, RedisClusterException, OSError) as error:
            self._stale = True
            raise NotSent from error
        try:
            return await endpoint.call(step)
        except ResponseError:
            raise
        except BaseException:
            self._stale = True
            raise

    async def _endpoint_for(self, step: Send) -> Endpoint:
        cluster = self._cluster
        if self._stale:
            await cluster.initialize()
            await cluster.nodes_manager.initialize()
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
            endpoint = Endpoint(node.connection_class, node.connection_kwargs, self._deadline)
            self._by_node[node.name] = endpoint
        return endpoint

    def _endpoints(self) -> list[Endpoint]:
        return list(self._by_node.values())

    async def _reroute(self, moved: Any) -> None:
        await self._cluster.nodes_manager.move_slot(moved)


def route_for(client: Any, deadline: float) -> Route:
    """The route over a client that the user made. The client itself is neither changed nor closed."""
    if isinstance(client, redis.RedisCluster):
        return ClusterRoute(client, deadline, shown="a RedisCluster client")
    if isinstance(client, redis.Redis):
        return Route(client, deadline, shown=f"a {type(client).__name__} client")
    takes = "redis.asyncio.Redis or redis.asyncio.RedisCluster"
    raise wrong_client(client, "AsyncStatusStore", takes, "StatusStore")


def open_route(url: str, deadline: float) -> Route:
    """The route that a URL names, with a client (and for embedded:// a server) of its own."""
    target = parse(url)
    if target.kind == "memory":
        import fakeredis  # it takes as long to import as all the rest

        warn_of_memory()
        return Route(fakeredis.FakeAsyncRedis(), deadline, target.shown)
    if target.kind == "embedded":
        server = EmbeddedServer()
        client = redis.Redis(unix_socket_path=str(server.socket))
        return Route(client, deadline, f"{target.shown} at {server.url}", lambda: asyncio.to_thread(server.stop))
    if target.kind == "cluster":
        with options_of(target):
            nodes = [ClusterNode(host, port) for host, port in target.hosts]
            options: dict[str, Any] = {"socket_timeout": deadline, **target.options}
            cluster = redis.RedisCluster(startup_nodes=nodes, **options)
        return ClusterRoute(cluster, deadline, target.shown, cluster.aclose)
    with options_of(target):
        client = _sentinel_client(target, deadline) if target.kind == "sentinel" else _single_client(target)
        pool = client.connection_pool
        pool.connection_class(**connection_options(pool.connection_kwargs))
    return Route(client, deadline, target.shown, client.aclose)


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
