"""A primary and a replica that a Sentinel watches.

Each fault says up to when the replica had every acknowledged write before it: ``replicated_until``.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import redis

from chaos.faults import Chance, Fault, Injected, is_replica_of, server_fault
from chaos.servers import Sentinel, Server, until

OPTIONS = ("--repl-diskless-sync-delay", "0", "--repl-timeout", "5")


def replicated_until(primary: redis.Redis) -> float:
    """A time until which the replica has every acknowledged write."""

    def confirmed() -> float | None:
        now = time.monotonic()
        with primary.pipeline(transaction=False) as pipe:  # WAIT is for the writes of its own connection, and earlier
            pipe.set("chaos:replicated", 1, ex=60)
            pipe.execute_command("WAIT", 1, 1000)
            return now if pipe.execute()[1] else None

    return float(until(confirmed, "the replica has the latest writes"))


class Replicas(contextlib.ExitStack):
    """Two servers that take turns as the primary. A context manager."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._servers = [self.enter_context(Server(folder / f"server-{n}", *OPTIONS)) for n in range(2)]
        primary, replica = self._servers
        self._ports = {server: self._published(server) for server in self._servers}
        replica.client.replicaof("127.0.0.1", self._ports[primary])
        until(lambda: is_replica_of(replica.client, self._ports[primary]), "the replica is in sync")
        self._sentinel = self.enter_context(Sentinel(folder / "sentinel", self._ports[primary]))
        until(lambda: self._knows_replica(), "the sentinel knows the replica")

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self._sentinel.port}/main/0"

    @property
    def primary(self) -> Server:
        return next(one for one in self._servers if self._ports[one] == self._sentinel.primary())

    def faults(self) -> list[Fault]:
        return [
            server_fault("SIGKILL of the primary, replica promoted", self._kill, outage=True, loses="latest"),
            server_fault("SIGSTOP of the primary, replica promoted", self._stop, outage=True, loses="latest"),
        ]

    def _published(self, server: Server) -> int:
        """The port at which all others find a server."""
        return server.port

    def _kill(self, chance: Chance) -> Injected:
        old, new = self._pair()
        kept_until = replicated_until(old.client)
        old.kill()
        self._await_promotion(new)
        old.start()
        self._settle()
        return Injected(kept_until=kept_until)

    def _stop(self, chance: Chance) -> Injected:
        old, new = self._pair()
        kept_until = replicated_until(old.client)
        old.pause()
        self._await_promotion(new)
        old.resume()  # for a moment it still acts as the primary towards its connected clients
        time.sleep(0.1)
        self._settle()
        return Injected(kept_until=kept_until)

    def _pair(self) -> tuple[Server, Server]:
        primary = self.primary
        return primary, next(one for one in self._servers if one is not primary)

    def _await_promotion(self, new: Server) -> None:
        until(lambda: self._sentinel.primary() == self._ports[new], "the replica is promoted")
        until(lambda: new.client.info("replication")["role"] == "master", "the promoted server acts as the primary")

    def _settle(self) -> None:
        """Make the former primary a replica, sooner than the sentinel would."""
        until(self._is_settled, "the former primary is a replica in sync, and the sentinel knows it")

    def _is_settled(self) -> bool:
        primary, replica = self._pair()
        if replica.client.info("replication").get("master_port") != self._ports[primary]:
            replica.client.replicaof("127.0.0.1", self._ports[primary])
        return is_replica_of(replica.client, self._ports[primary]) and self._knows_replica()

    def _knows_replica(self) -> bool:
        """Whether the sentinel has a replica that it could promote."""
        reply = self._sentinel.client.execute_command("SENTINEL", "REPLICAS", "main")
        found = [one if isinstance(one, dict) else dict(zip(one[::2], one[1::2], strict=True)) for one in reply]
        return any(one["flags"] == "slave" and one["master-link-status"] == "ok" for one in found)
