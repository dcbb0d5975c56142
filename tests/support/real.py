"""Real servers of special kinds (on a port, with TLS, sentinels), and stores on them, blocking and asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from redis_kvpoll import AsyncStatusStore, StatusStore
from redis_kvpoll.transport.embedded import EmbeddedServer
from tests.support import pace
from tests.support.blocking import Blocking
from tests.support.servers import ARGUMENTS, HARNESS, keys_without_ttl, program, restrict, why_absent


def _ports() -> Iterator[int]:
    """The ports of this worker, again and again. Runs beside this one begin elsewhere.

    They are below the ephemeral ports: the system gives those to others, who would answer where nobody shall.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = 20_000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    for number in itertools.count(os.getpid()):
        yield 10_000 + worker * share + number % share


_ports_of_this_process = _ports()


def free_port() -> int:
    """A port of loopback that is not in use, and that no other test is given for a long time."""
    while True:
        port = next(_ports_of_this_process)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class PortServer(EmbeddedServer):
    """A private server that listens on a port of loopback too. Its guard ends it however this process ends."""

    def __init__(self, *arguments: str, kind: str = "valkey", port: int | None = None) -> None:
        found = program(kind)
        if found is None:
            pytest.skip(why_absent(kind))
        self.port = port or free_port()
        super().__init__(found, ["--port", str(self.port), "--bind", "127.0.0.1", *ARGUMENTS, *arguments])
        restrict(self)

    @property
    def tcp(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> redis.Redis:
        """The tests' own, which may do everything."""
        return redis.Redis(unix_socket_path=str(self.socket), **HARNESS, **options)

    def store_client(self, **options: Any) -> redis.Redis:
        """For a store: it may do what stores do."""
        return redis.Redis(unix_socket_path=str(self.socket), **options)


class Sentinel(EmbeddedServer):
    """A sentinel that watches the primary ``main`` at a port. It must have a configuration file that it may write.

    After a pause of the machine it does nothing for half a minute (TILT): a failover needs a deadline beyond that.
    """

    def __init__(self, folder: Path, primary: int) -> None:
        self.port = free_port()
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {primary} 1\n"
            f'sentinel auth-user main {HARNESS["username"]}\nsentinel auth-pass main "{HARNESS["password"]}"\n'
            f"sentinel down-after-milliseconds main {pace.milliseconds(0.5)}\nsentinel failover-timeout main 5000\n"
        )
        wrapper = folder / "sentinel"
        # $4 is the path of the unix socket, by which EmbeddedServer detects that it is up.
        wrapper.write_text(f'#!/bin/sh\nexec "{program("valkey")}" "{configuration}" --sentinel --unixsocket "$4"\n')
        wrapper.chmod(0o755)
        super().__init__(str(wrapper))


@cache
def shared(kind: str = "valkey") -> PortServer:
    """One server of a kind for all tests of this process that leave it as it was; it ends with the process."""
    return PortServer(kind=kind)


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """Wait for a condition, for at most so many seconds of an idle machine. Returns its value."""
    for _ in pace.turns(seconds):
        if answer := condition():
            return answer
    raise AssertionError(f"never came: {what}")


def is_busy(client: redis.Redis) -> bool:
    """Whether the server says that a script keeps it busy."""
    try:
        client.ping()
    except redis.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


def connections(client: redis.Redis) -> set[str]:
    """The ids of the connections of a server: of a shared one others may be closed, or opened, at any moment."""
    return {connection["id"] for connection in client.client_list()}


def replicate(client: redis.Redis) -> None:
    """Wait until a replica has all that its primary has executed before."""
    client.set("replicated", 1, ex=600)  # WAIT is for the last write of its own connection, and all before it
    until(lambda: client.execute_command("WAIT", 1, 100), "the replica has it all")


def hear_signals() -> None:
    """Undo what children inherit: in the background SIGINT and SIGQUIT are ignored, under nohup SIGHUP is."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def at_the_second_pause(monkeypatch: pytest.MonkeyPatch, do: Callable[[], Any]) -> list[int]:
    """Do something once a call has been tried twice. The returned list grows with each pause; pauses are short."""
    pauses: list[int] = []

    def compute(tries: int) -> float:
        pauses.append(tries)
        if len(pauses) == 2:
            do()
        return 0.005

    monkeypatch.setattr("redis_kvpoll.engine.retry._BACKOFF.compute", compute)
    return pauses


@contextlib.contextmanager
def three_tries() -> Iterator[None]:
    """Let calls that fail give up after their third try, however much time they have left."""
    with pytest.MonkeyPatch.context() as patch:
        compute = "redis_kvpoll.engine.retry._BACKOFF.compute"
        patch.setattr(compute, lambda tries: 0.005 if tries < 3 else 1e9)
        yield


def emptied(server: EmbeddedServer) -> list[bytes]:
    """The keys without a TTL on a server, which loses all keys."""
    with redis.Redis(unix_socket_path=str(server.socket), **HARNESS) as client:
        left = keys_without_ttl(client)
        client.flushall()
    return left


class World:
    """Makes servers, and stores and clients, blocking or asyncio, all used as the blocking ones are.

    At its end it closes what it made, empties the servers, and fails if a key has no TTL.
    """

    def __init__(self, kind: str) -> None:
        self.is_async = kind == "async"
        self.runner = asyncio.Runner()
        self._used: list[EmbeddedServer] = []
        self._own: list[EmbeddedServer] = []
        self._made: list[Any] = []
        self._clients: list[Any] = []

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        for store in self._made:
            store.close()
        for client in self._clients:
            if self.is_async:
                self.runner.run(client.aclose())
            else:
                client.close()
        self.runner.close()
        left = [key for server in self._used for key in emptied(server)]
        for server in self._own:
            server.stop()
        assert not left, f"keys without a TTL: {left}"

    def serve(self, *arguments: str, kind: str = "valkey", port: int | None = None) -> PortServer:
        """A server of this test's own, to stop, kill or configure."""
        server = PortServer(*arguments, kind=kind, port=port)
        self._own.append(server)
        self._used.append(server)
        return server

    def restart(self, server: PortServer, *arguments: str) -> PortServer:
        """Stop a server, and start another, empty, on its port."""
        server.stop()
        self.forget(server)
        return self.serve(*arguments, port=server.port)

    def forget(self, server: EmbeddedServer) -> None:
        """Leave a server that has ended out of the clean-up."""
        self._used.remove(server)

    def shared(self, kind: str = "valkey") -> PortServer:
        """A server that this test shares with others, and leaves as it was."""
        server = shared(kind)
        self.share(server)
        return server

    def share(self, *servers: EmbeddedServer) -> None:
        """Servers that this test shares with others; they are emptied after it."""
        self._used.extend(servers)

    def open(self, url: str, **options: Any) -> Any:
        """A store from a URL."""
        return self._keep((AsyncStatusStore if self.is_async else StatusStore).from_url(url, **options))

    def over(self, client: Any, **options: Any) -> Any:
        """A store over a client."""
        return self._keep((AsyncStatusStore if self.is_async else StatusStore)(client, **options))

    @property
    def redis(self) -> Any:
        """redis or redis.asyncio."""
        return redis.asyncio if self.is_async else redis

    def client(self, maker: Callable[[], Any]) -> Any:
        """The client that ``maker`` makes, as a user's program would: in asyncio, inside the event loop."""

        async def make() -> Any:
            return maker()

        client = self.runner.run(make()) if self.is_async else maker()
        self._clients.append(client)
        return client

    def finish(self, answer: Any) -> Any:
        """The value of a client's answer."""

        async def wait() -> Any:
            return await answer

        return self.runner.run(wait()) if self.is_async else answer

    def _keep(self, store: Any) -> Any:
        self._made.append(Blocking(store, self.runner) if self.is_async else store)
        return self._made[-1]
