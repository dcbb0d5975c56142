"""A proxy between a store and its server, which makes the faults that a network makes, and adds TLS."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

import hiredis

from redis_kvpoll.protocol.scripts import load

Command = list[bytes]


class Proxy:
    """Forwards connections from a port of loopback to ``target``, a unix socket's path. A context manager."""

    def __init__(self, target: object, tls: ssl.SSLContext | None = None) -> None:
        self.commands: list[Command] = []
        """Every command that came in, those that went no further included."""
        self.stalled = False
        """While True, what comes in is swallowed: no answer, no error."""
        self.refusals = 0
        """How many of the next connections are closed as soon as they are made."""
        self.connections = 0
        """How many connections were made."""
        self._target = str(target)
        self._tls = tls
        self._held: Callable[[Command], bool] | None = None
        self.released = threading.Event()
        self.lose: Callable[[Command], bool] | None = None
        self.open_connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.release()
        self.cut()
        for thread in self._threads:
            thread.join(timeout=10)

    def lose_next_reply(self, script: str) -> None:
        """Cut the connection instead of passing on the reply to the next call of a script."""
        self.lose = lambda command: _calls(command, script)

    def hold(self, *scripts: str) -> None:
        """From now on, let no call of these scripts through, until it is released."""
        self.released = threading.Event()
        self._held = lambda command: any(_calls(command, script) for script in scripts)

    def release(self) -> None:
        """Let through what is held, and hold nothing any more."""
        self._held = None
        self.released.set()

    def calls(self, script: str) -> int:
        """How often a script was called."""
        return sum(_calls(command, script) for command in list(self.commands))

    def cut(self) -> None:
        """Close all connections."""
        with self._lock:
            for end in self.open_connections:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.refusals:
                self.refusals -= 1
                client.close()
                continue
            thread = threading.Thread(target=self._serve, args=[client], daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            server.connect(self._target)
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
        reader = hiredis.Reader(notEnoughData=...)
        lose = False
        held: threading.Event | None = None
        while True:
            ready = [client] if self._tls and client.pending() else select.select([client, server], [], [])[0]
            if client in ready:
                data = client.recv(65536)
                reader.feed(data)
                while (command := reader.gets()) is not ...:
                    self.commands.append(command)
                    if self._held and self._held(command):
                        held = self.released
                    if self.lose and self.lose(command):
                        self.lose, lose = None, True
                if held:
                    held.wait(60)
                    held = None
                if not self.stalled and data:
                    server.sendall(data)
            else:
                data = server.recv(65536)
                if lose:
                    return
                client.sendall(data)
            if not data:
                return


def _calls(command: Command, script: str) -> bool:
    known = load(script)
    return command[0] in (b"EVALSHA", b"EVAL") and command[1] in (known.sha.encode(), known.source.encode())
