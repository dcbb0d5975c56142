"""The server of a run, its clients, and the keys of the run."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from random import Random
from typing import Any

import redis
import redis.asyncio
from redis._parsers import _AsyncRESP3Parser, _RESP3Parser
from redis._parsers.encoders import Encoder
from redis.connection import PythonRespSerializer

from bench.services import free_ports
from redis_kvpoll import AsyncStatusStore, InvalidInputError, StatusStore
from redis_kvpoll.transport.embedded import EmbeddedServer
from redis_kvpoll.transport.urls import Target, parse
from redis_kvpoll.validation import Policy

TTL = 900
"""Seconds: the store's default, and the TTL of every plain key. What a killed run leaves behind expires."""

_BUFFER_CUTOFF = 6000


class Ground:
    """Clients and keys. Stores and plain clients use the same connection settings."""

    def __init__(self, url: str, server: int | None = None) -> None:
        self.url = url
        self.server = server
        """The process id of the run's own server; None if it is another's."""
        self.id = f"bench-{secrets.token_hex(4)}"
        self.client = self.plain()
        self._random = Random(7)  # noqa: S311 - ids, not secrets; the same in every run

    def plain(self, pure: bool = False) -> redis.Redis:
        """A client of redis-py; with ``pure`` it does not use hiredis."""
        options: dict[str, Any] = {}
        if pure:
            encode = Encoder("utf-8", "strict", False).encode
            options = {"parser_class": _RESP3Parser, "command_packer": PythonRespSerializer(_BUFFER_CUTOFF, encode)}
        client: redis.Redis = redis.Redis.from_url(self.url, protocol=3, **options)
        return client

    def plain_async(self, pure: bool = False) -> redis.asyncio.Redis:
        options: dict[str, Any] = {"parser_class": _AsyncRESP3Parser} if pure else {}
        client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(self.url, protocol=3, **options)
        return client

    def store(
        self,
        table: str,
        shards: int = 1,
        pure: bool = False,
        feed_length: int | None = None,
        policy: Policy | None = None,
    ) -> StatusStore:
        return StatusStore(
            self.plain(pure),
            namespace=f"{self.id}.{table}",
            ttl=TTL,
            shards=shards,
            feed_length=feed_length,
            policy=policy,
        )

    def rank(self, table: str, rank: int, world_size: int, feed_length: int | None = 0) -> StatusStore:
        """The store of one rank, by default without a feed."""
        namespace = f"{self.id}.{table}"
        return StatusStore(self.plain(), namespace=namespace, rank=rank, world_size=world_size, feed_length=feed_length)

    def store_async(self, table: str, pure: bool = False) -> AsyncStatusStore:
        return AsyncStatusStore(self.plain_async(pure), namespace=f"{self.id}.{table}", ttl=TTL)

    def ids(self, count: int) -> list[int]:
        """Room ids as routers make them: random, with 19 digits."""
        return [self._random.randrange(10**18, 2**63) for _ in range(count)]

    def key(self, table: str, room: int) -> str:
        """A plain key, as long as a room's."""
        return f"kvpoll:{{{self.id}.{table}}}:text:{room}"

    def remove_keys(self) -> None:
        """Remove all keys of this run."""
        some: list[bytes] = []
        for key in self.client.scan_iter(match=f"kvpoll:{{{self.id}*", count=1000):
            some.append(key)
            if len(some) == 1000:
                self.client.unlink(*some)
                some.clear()
        if some:
            self.client.unlink(*some)


@contextlib.contextmanager
def opened(url: str) -> Iterator[Ground]:
    """The server of a URL. Without a URL, a private one by TCP, as in a cluster; embedded:// uses a unix socket."""
    if not url:
        (port,) = free_ports(1)
        with EmbeddedServer(arguments=("--bind", "127.0.0.1", "--port", str(port))) as server:
            yield Ground(f"redis://127.0.0.1:{port}/0", server.pid)
        return
    target = parse(url)
    if target.kind == "embedded":
        with EmbeddedServer() as server:
            yield Ground(server.url, server.pid)
        return
    if target.kind != "single":
        raise InvalidInputError(
            f"URL {target.shown}: the benchmark compares with plain MGET and MEMORY USAGE, so it needs one real "
            "server: embedded://, redis://, rediss://, valkey://, valkeys:// or unix://"
        )
    ground = Ground(url.replace("valkey", "redis", 1) if url.startswith("valkey") else url)
    ground.client.ping()
    try:
        yield ground
    finally:
        ground.remove_keys()


def environment(ground: Ground, url: str) -> dict[str, str | int]:
    """What the figures depend on: versions, transport, and the machine."""
    info: dict[str, Any] = ground.client.info("server")
    name = str(info.get("server_name", "redis"))
    return {
        "server": f"{name} {info.get(f'{name}_version', info.get('redis_version', '?'))}",
        "transport": _transport(parse(ground.url)) + (" (private server)" if url in ("", "embedded://") else ""),
        "protocol": "RESP3",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "redis-py": version("redis"),
        "hiredis": version("hiredis") if find_spec("hiredis") else "not installed",
        "redis_kvpoll": _own_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
    }


def _own_version() -> str:
    try:
        return version("redis-kvpoll")
    except PackageNotFoundError:
        return "not installed"


def _transport(target: Target) -> str:
    if "path" in target.options:
        return "unix socket"
    host = target.hosts[0][0]
    where = "loopback" if host in ("localhost", "127.0.0.1", "::1") else "network"
    return f"TCP, {where}" + (", TLS" if target.options.get("ssl") else "")
