"""A primary that stands still, is replaced by the Sentinel, and wakes up: for a while there are two primaries.

All others reach each server through a proxy of its own. So the harness can cut some of the connections to a server that
is stopped: their stores learn of the new primary, while calls on the other connections are still under way.
"""

from __future__ import annotations

import time
from pathlib import Path

from chaos.faults import Chance, Fault, Injected, is_replica_of, server_fault
from chaos.proxy import Proxy
from chaos.replicas import Replicas, replicated_until
from chaos.servers import Server, until

QUICKLY_MS, DETECTION_MS = 300, 2000
"""How long a primary may be silent: while one is stopped, so that calls which wait for it are still under way when it
wakes up; and otherwise, so that a busy machine does not look like a dead primary."""
AWAKE_MS = 2000
"""How long the sentinel lets a former primary act as one, at least. By default it is 8 s."""


class Waking(Replicas):
    """Two servers that take turns as the primary, for a while both at once. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._proxies: dict[Server, Proxy] = {}
        super().__init__(folder)
        self._detect_after(DETECTION_MS)
        for period in ("PUBLISH-PERIOD", "INFO-PERIOD"):  # it demotes a server that was a primary for four of those
            self._sentinel.client.execute_command("SENTINEL", "DEBUG", period, AWAKE_MS // 4)

    def faults(self) -> list[Fault]:
        name = "SIGSTOP of the primary, replica promoted, SIGCONT, demotion"
        return [server_fault(name, self._wake, outage=True, loses="latest")]

    def _published(self, server: Server) -> int:
        proxy = self._proxies[server] = self.enter_context(Proxy(server.port, inspect=False))
        server.client.config_set("replica-announce-port", proxy.port)
        return proxy.port

    def _wake(self, chance: Chance) -> Injected:
        old, new = self._pair()
        kept_until = replicated_until(old.client)
        self._detect_after(QUICKLY_MS)
        old.pause()
        self._await_promotion(new)
        self._detect_after(DETECTION_MS)
        self._proxies[old].cut(lambda: chance.random() < 0.3)
        time.sleep(chance.uniform(0.0, 0.6))
        old.resume()
        until(lambda: is_replica_of(old.client, self._ports[new]), "the sentinel has demoted the former primary")
        until(self._knows_replica, "the sentinel knows the former primary as a replica")
        return Injected(kept_until=kept_until)

    def _detect_after(self, milliseconds: int) -> None:
        self._sentinel.client.execute_command("SENTINEL", "SET", "main", "down-after-milliseconds", milliseconds)
