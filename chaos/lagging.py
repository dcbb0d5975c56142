"""A primary, and a replica that lags behind when it is promoted: it lacks the latest acknowledged writes.

Workers find the primary at the same address throughout, a proxy's. Replication goes through another proxy, which is
closed for a while before each promotion.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from chaos.faults import Chance, Fault, Injected, is_replica_of, server_fault
from chaos.proxy import Proxy
from chaos.replicas import OPTIONS, replicated_until
from chaos.servers import Server, until


class Lagging(contextlib.ExitStack):
    """Two servers that take turns as the primary. A context manager."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.primary, self._replica = (self.enter_context(Server(folder / f"server-{n}", *OPTIONS)) for n in range(2))
        self._service = self.enter_context(Proxy(self.primary.port, inspect=False))
        self._link = self.enter_context(Proxy(self.primary.port, inspect=False))
        self._replica.client.replicaof("127.0.0.1", self._link.port)
        self._await_replica()

    @property
    def url(self) -> str:
        return self._service.url

    def faults(self) -> list[Fault]:
        return [
            server_fault("SIGKILL of the primary, lagging replica promoted", self._kill, outage=True, loses="latest"),
            server_fault("lagging replica promoted, clients cut off", self._switch, outage=True, loses="latest"),
        ]

    def _kill(self, chance: Chance) -> Injected:
        kept_until = self._lag(chance)
        self.primary.kill()
        self._promote()
        return Injected(kept_until=kept_until)

    def _switch(self, chance: Chance) -> Injected:
        kept_until = self._lag(chance)
        self._promote()
        return Injected(kept_until=kept_until)

    def _lag(self, chance: Chance) -> float:
        """Stop replication for a while; returns the time until which the replica has every acknowledged write."""
        self._await_replica()
        kept_until = replicated_until(self.primary.client)
        self._link.refusing = True
        self._link.cut()
        time.sleep(chance.uniform(0.2, 0.8))
        return kept_until

    def _promote(self) -> None:
        """Make the replica the primary, and the former primary an empty replica of it."""
        self._replica.client.replicaof("NO", "ONE")
        self.primary, self._replica = self._replica, self.primary
        self._service.target = self._link.target = self.primary.port
        self._service.cut()
        self._replica.kill()
        self._replica.forget()
        self._replica.start()
        self._link.refusing = False
        self._replica.client.replicaof("127.0.0.1", self._link.port)

    def _await_replica(self) -> None:
        until(lambda: is_replica_of(self._replica.client, self._link.port), "the replica is in sync")
