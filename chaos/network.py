"""A network between workers and a server, which can be cut, slow, deaf, or turn everybody away."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time


class Network:
    """Forwards connections from a port of loopback to ``port``. A context manager."""

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        """Seconds that each piece of data takes, either way."""
        self.deaf = False
        """While True, what comes in is swallowed: no answer, no error."""
        self.refusing = False
        """While True, new connections are closed as soon as they are made."""
        self._target = port
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Close all connections."""
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.delay, self.refusing = 0.0, True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(timeout=10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            thread = threading.Thread(target=self._serve, args=[client], daemon=True)
            self._threads = [*(one for one in self._threads if one.is_alive()), thread]
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket() as server:
            with contextlib.suppress(OSError):
                server.connect(("127.0.0.1", self._target))
                with self._lock:
                    self._open |= {client, server}
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._forward(client, server)
            with self._lock:
                self._open -= {client, server}

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            for end in select.select([client, server], [], [])[0]:
                data = end.recv(65536)
                if not data:
                    return
                if self.delay:
                    time.sleep(self.delay)
                if end is server:
                    client.sendall(data)
                elif not self.deaf:
                    server.sendall(data)
