"""A proxy between a store and its server that injects network faults, and adds TLS if asked to.

The chaos runs and the tests share it. With ``inspect`` it parses every command, which ``hold``, ``lose_next_reply``
and ``calls`` need; without, it only forwards bytes, and a long run costs no memory.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hiredis

from redis_kvpoll.protocol.scripts import load

Command = list[bytes]


class Proxy:
    """Forwards connections from a port on loopback to a target. A context manager.

    Args:
        target: a port on loopback, or the path of a unix socket.
        tls: the context that connections to the proxy use; None: plain TCP.
        inspect: parse every command.
    """

    def __init__(self, target: int | str | Path, tls: ssl.SSLContext | None = None, inspect: bool = True) -> None:
        self.commands: list[Command] = []
        """Every command received, including those that were not forwarded."""
        self.stalled = False
        """While True, what a client sends is dropped: it gets neither a reply nor an error."""
        self.delay = 0.0
        """Seconds by which data is delayed, in both directions."""
        self.rewrite: Callable[[bytes], bytes] | None = None
        """Changes each piece of data from the server."""
        self.refusing = False
        """While True, new connections are closed at once."""
        self.refusals = 0
        """How many of the next connections are closed at once."""
        self.connections = 0
        """How many connections were accepted."""
        self.target = target
        """Where new connections lead."""
        self._tls = tls
        self._inspect = inspect
        self._held: Callable[[Command], bool] | None = None
        self.released = threading.Event()
        self.lose: Callable[[Command], bool] | None = None
        self.open_connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.delay, self.refusing = 0.0, True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.release()
        self.cut()
        for thread in self._threads:
            thread.join(timeout=10)

    def lose_next_reply(self, script: str) -> None:
        """Cut the connection instead of forwarding the reply to the next call of a script."""
        self.lose = lambda command: _calls(command, script)

    def hold(self, *scripts: str) -> None:
        """Hold back every call of these scripts until ``release``."""
        self.released = threading.Event()
        self._held = lambda command: any(_calls(command, script) for script in scripts)

    def release(self) -> None:
        """Forward what is held back, and hold nothing back any more."""
        self._held = None
        self.released.set()

    def calls(self, script: str) -> int:
        """How often a script was called."""
        return sum(_calls(command, script) for command in list(self.commands))

    def cut(self, chosen: Callable[[], bool] = lambda: True) -> None:
        """Close all connections, or those of which an end is chosen."""
        with self._lock:
            for end in filter(lambda _: chosen(), self.open_connections):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.refusing or self.refusals:
                self.refusals = max(0, self.refusals - 1)
                client.close()
                continue
            thread = threading.Thread(target=self._serve, args=[client], daemon=True)
            self._threads = [*(one for one in self._threads if one.is_alive()), thread]
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        target = self.target
        server = socket.socket(socket.AF_INET if isinstance(target, int) else socket.AF_UNIX)
        with contextlib.suppress(OSError, hiredis.ProtocolError):  # what is no command ends the connection
            server.connect(("127.0.0.1", target) if isinstance(target, int) else str(target))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if isinstance(target, int):
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                client.settimeout(10)
                client = self._tls.wrap_socket(client, server_side=True)
            with self._lock:
                self.open_connections |= {client, server}
            self._forward(client, server)
        with self._lock:
            self.open_connections -= {client, server}
        client.close()
        server.close()

    def _forward(self, client: Any, server: socket.socket) -> None:
        reader = hiredis.Reader(notEnoughData=...) if self._inspect else None
        lose = False
        while True:
            ready = [client] if self._tls and client.pending() else select.select([client, server], [], [])[0]
            if self.delay:
                time.sleep(self.delay)  # before reading: what a busy machine sends in several pieces takes no longer
            for end in ready:
                data = end.recv(65536)
                if end is server and lose:
                    return
                if end is client and reader is not None:
                    reader.feed(data)
                    lose = self._examine(reader) or lose
                if end is server:
                    rewrite = self.rewrite
                    client.sendall(rewrite(data) if rewrite else data)
                elif not self.stalled and data:
                    server.sendall(data)
                if not data:
                    return

    def _examine(self, reader: Any) -> bool:
        """Record the commands that are complete; wait while one of them is held back.

        Returns whether the reply to one of them must be lost.
        """
        held: threading.Event | None = None
        lose = False
        while (command := reader.gets()) is not ...:
            self.commands.append(command)
            if self._held and self._held(command):
                held = self.released
            if self.lose and self.lose(command):
                self.lose, lose = None, True
        if held:
            held.wait(60)
        return lose


_FOR_ONE_ROOM = {"update": "update_one", "write": "advance_one"}


def _calls(command: Command, script: str) -> bool:
    """Whether a command calls a script, or does the same for one room."""
    if command[0] == b"HGET":
        return script == "poll" and command[2] == b"status"
    known = [load(name) for name in (script, _FOR_ONE_ROOM.get(script, script))]
    return command[0] in (b"EVALSHA", b"EVAL") and any(
        command[1] in (one.sha.encode(), one.source.encode()) for one in known
    )
