"""A primary and a replica that a Sentinel watches."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from chaos.faults import Chance, Fault, is_replica_of, server_fault
from chaos.servers import Sentinel, Server, until


class Replicas(contextlib.ExitStack):
    """Two servers that take turns as the primary. A context manager."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        options = ("--repl-diskless-sync-delay", "0", "--repl-timeout", "5")
        self._servers = [self.enter_context(Server(folder / f"server-{n}", *options)) for n in range(2)]
        primary, replica = self._servers
        replica.client.replicaof("127.0.0.1", primary.port)
        until(lambda: is_replica_of(replica.client, primary.port), "the replica is in sync")
        self._sentinel = self.enter_context(Sentinel(folder / "sentinel", primary.port))
        until(lambda: self._knows_replica(), "the sentinel knows the replica")

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self._sentinel.port}/main/0"

    @property
    def primary(self) -> Server:
        return next(one for one in self._servers if one.port == self._sentinel.primary())

    def faults(self) -> list[Fault]:
        return [
            server_fault("SIGKILL of the primary, replica promoted", self._kill, outage=True, loses="latest"),
            server_fault("SIGSTOP of the primary, replica promoted", self._stop, outage=True, loses="latest"),
        ]

    def _kill(self, chance: Chance) -> None:
        old, new = self._pair()
        old.kill()
        self._await_promotion(new)
        old.start()
        self._settle()

    def _stop(self, chance: Chance) -> None:
        old, new = self._pair()
        old.pause()
        self._await_promotion(new)
        old.resume()  # for a moment it still acts as the primary towards its connected clients
        time.sleep(0.1)
        self._settle()

    def _pair(self) -> tuple[Server, Server]:
        primary = self.primary
        return primary, next(one for one in self._servers if one is not primary)

    def _await_promotion(self, new: Server) -> None:
        until(lambda: self._sentinel.primary() == new.port, "the replica is promoted")
        until(lambda: new.client.info("replication")["role"] == "master", "the promoted server acts as the primary")

    def _settle(self) -> None:
        """Make the former primary a replica, sooner than the sentinel would."""
        until(self._is_settled, "the former primary is a replica in sync, and the sentinel knows it")

    def _is_settled(self) -> bool:
        primary, replica = self._pair()
        if replica.client.info("replication").get("master_port") != primary.port:
            replica.client.replicaof("127.0.0.1", primary.port)
        return is_replica_of(replica.client, primary.port) and self._knows_replica()

    def _knows_replica(self) -> bool:
        """Whether the sentinel has a replica that it could promote."""
        reply = self._sentinel.client.execute_command("SENTINEL", "REPLICAS", "main")
        found = [one if isinstance(one, dict) else dict(zip(one[::2], one[1::2], strict=True)) for one in reply]
        return any(one["flags"] == "slave" and one["master-link-status"] == "ok" for one in found)
