"""A primary that stands still while its replica is promoted, and wakes later: for some time there are two primaries."""

from __future__ import annotations

import os
import signal
from typing import Any

from chaos.proxy import Proxy
from tests.support import real


class Failover:
    """A primary with a replica, and a proxy as the address of the service. A context manager."""

    def __init__(self, *arguments: str) -> None:
        self._world = real.World("sync")
        self.old = self._world.serve("--repl-diskless-sync-delay", "0", *arguments)
        self.new = self._world.serve("--replicaof", "127.0.0.1", str(self.old.port), *arguments)
        self.service = Proxy(self.old.port)

    def __enter__(self) -> Failover:
        with self.new.client() as client:
            real.until(lambda: client.info("replication")["master_link_status"] == "up", "the replica is in step")
        return self

    def __exit__(self, *_: object) -> None:
        self.wake()
        self.promote()  # a replica cannot be emptied
        self.service.__exit__()
        self._world.__exit__()

    def wait_for_replica(self) -> None:
        """Return when the replica has everything."""
        with self.old.client() as client:
            real.replicate(client)

    def pause(self) -> None:
        """Let the old primary stand still."""
        os.kill(self.old.pid, signal.SIGSTOP)

    def promote(self) -> None:
        """Make the replica a primary, to which new connections of the service lead."""
        with self.new.client() as client:
            client.replicaof("NO", "ONE")
        self.service.target = self.new.port

    def cut_new(self) -> None:
        """Cut the connections to the new primary."""
        with self.new.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)

    def wake(self) -> None:
        """Let the old primary go on: it does not know that it was replaced."""
        os.kill(self.old.pid, signal.SIGCONT)

    def keys_of(self, server: real.PortServer) -> set[Any]:
        with server.client() as client:
            return set(client.scan_iter("kvpoll:*:room:*"))
