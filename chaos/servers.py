"""Servers that can be killed, stopped, and restarted with or without their data."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from redis_kvpoll.errors import EmbeddedServerError
from redis_kvpoll.transport.embedded import EmbeddedServer, find_program

SYSTEM = "/usr/bin:/usr/local/bin:/opt/homebrew/bin"
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
"""Every acknowledged write is on disk."""
STARTING_SECONDS = 5.0


CLIENT_SECONDS = 60.0
"""For the harness's own commands: it waits for servers that it stopped or paused, on a machine that may be busy."""


class ChaosError(Exception):
    """A run could not be set up, or did not reach an expected state."""


def system_redis() -> str | None:
    """The system's own redis-server, if there is one."""
    return shutil.which("redis-server", path=SYSTEM)


def free_port() -> int:
    """A port on loopback that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], expected: str, seconds: float = 20.0) -> Any:
    """Wait until a condition holds; an error of a client counts as not yet."""
    give_up_at = time.monotonic() + seconds
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            if answer := condition():
                return answer
        if time.monotonic() > give_up_at:
            raise ChaosError(f"not reached within {seconds:g} s: {expected}")
        time.sleep(0.01)


class Server:
    """A server at a port on loopback, whose folder outlives a kill. A context manager."""

    def __init__(self, folder: Path, *arguments: str, program: str | None = None) -> None:
        self.port = free_port()
        self.folder = folder
        folder.mkdir()
        self._program = program or find_program()
        self._arguments = arguments
        self._process: EmbeddedServer | None = None
        self.client = redis.Redis(
            port=self.port, decode_responses=True, socket_timeout=CLIENT_SECONDS, retry=Retry(NoBackoff(), 0)
        )
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start the server with the data in its folder, and wait until it answers."""
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), *self._arguments]
        give_up_at = time.monotonic() + STARTING_SECONDS
        while self._process is None:
            try:
                self._process = EmbeddedServer(self._program, words)
            except EmbeddedServerError:  # another process holds the port for a moment
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(0.1)
        until(self.client.ping, "a server answers")

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.stop()
            self._process = None

    def forget(self) -> None:
        """Delete all data; only while the server does not run."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def pause(self) -> None:
        """Send SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.client.close()


class Sentinel(EmbeddedServer):
    """A sentinel of the primary ``main`` at a port; it promotes a replica one second after a failure."""

    def __init__(self, folder: Path, primary: int) -> None:
        folder.mkdir()
        self.port = free_port()
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {primary} 1\n"
            "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 3000\n"
        )
        wrapper = folder / "sentinel"
        # $4 is the path of the unix socket, through which EmbeddedServer checks that it is up.
        wrapper.write_text(f'#!/bin/sh\nexec "{find_program()}" "{configuration}" --sentinel --unixsocket "$4"\n')
        wrapper.chmod(0o755)
        super().__init__(str(wrapper))
        self.client = redis.Redis(
            port=self.port, decode_responses=True, socket_timeout=CLIENT_SECONDS, retry=Retry(NoBackoff(), 0)
        )

    def primary(self) -> int:
        """The port of the current primary, as the sentinel sees it."""
        _, port = self.client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
        return int(port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.stop()
