"""What a run may be about: which servers there are, how workers find them, and which injuries they suffer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import redis

from chaos import faults
from chaos.clusters import Cluster
from chaos.faults import Injury
from chaos.network import Network
from chaos.notes import LEASE
from chaos.replicas import Replicas
from chaos.servers import DURABLE, Server, system_redis
from redis_kvpoll.protocol import keys

NAMESPACE = "chaos"
PATIENT = 10.0
"""Seconds of a lease where the way to a server may be longer for one worker than for the others: longer than the
deadline, as docs/guarantees.md asks for."""


@dataclass
class Field:
    """Where one run takes place."""

    url: str
    """For workers."""
    injuries: list[Injury]
    primaries: Callable[[], list[redis.Redis]]
    """To all servers that hold keys, when all is quiet."""
    shards: int = 1
    feed_length: int = 100_000
    """How many entries a shard's feed keeps."""
    lease: float = LEASE
    """Seconds of the workers' leases."""
    refusals: tuple[str, ...] = ()
    """Words of the server's refusals that the injuries explain."""
    direct: str = ""
    """For looks at the table, where the workers' way is not to be trusted."""

    def __post_init__(self) -> None:
        self.direct = self.direct or self.url


@dataclass(frozen=True)
class Scenario:
    """One run: its servers, and how long it is in the short and the long form."""

    make: Callable[[Path], AbstractContextManager[Field]]
    seconds: float = 4.0
    long_seconds: float = 60.0
    needs: Callable[[], object] = field(default=lambda: True)
    """False, or something like it, where it cannot be."""
    missing: str = ""
    """What it needs, in words."""


def _on(server: Server, injuries: list[Injury]) -> Field:
    return Field(server.url, injuries, lambda: [server.client])


@contextlib.contextmanager
def workers(folder: Path) -> Iterator[Field]:
    """With a short feed: who was stopped finds that it no longer reaches back to where they were. And the server is
    silent for three times the life of a lease, which is no reason to take anybody for dead."""
    with Server(folder / "server") as server:
        injuries = [*faults.of_workers(), faults.long_pause(server, 3 * LEASE)]
        yield Field(server.url, injuries, lambda: [server.client], feed_length=100)


@contextlib.contextmanager
def server(folder: Path, program: Callable[[], str | None] = lambda: None) -> Iterator[Field]:
    with Server(folder / "server", *DURABLE, program=program()) as server:
        yield _on(server, faults.of_server(server))


@contextlib.contextmanager
def amnesia(folder: Path) -> Iterator[Field]:
    with Server(folder / "server") as server:
        yield _on(server, [faults.amnesia(server)])


@contextlib.contextmanager
def network(folder: Path) -> Iterator[Field]:
    """Tries are short here, so that a call has the time for some, and a late one meets the next."""
    with Server(folder / "server") as server, Network(server.port) as network:
        url = f"{network.url}?socket_timeout=0.3"
        clients = lambda: [server.client]  # noqa: E731
        yield Field(url, faults.of_network(network), clients, shards=4, direct=server.url, lease=PATIENT)


@contextlib.contextmanager
def memory(folder: Path) -> Iterator[Field]:
    with Server(folder / "server") as server:
        yield Field(server.url, [faults.of_memory(server)], lambda: [server.client], refusals=("OOM",))


@contextlib.contextmanager
def sentinel(folder: Path) -> Iterator[Field]:
    with Replicas(folder) as replicas:
        yield Field(replicas.url, replicas.injuries(), lambda: [replicas.primary.client], lease=PATIENT)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Field]:
    """Here the heartbeat of one shard may wait for that of another, too."""
    shards = 6
    with Cluster(folder, keys.tags(NAMESPACE, shards)) as cluster:
        clients = lambda: [node.client for node in cluster.primaries()]  # noqa: E731
        yield Field(cluster.url, cluster.injuries(), clients, shards=shards, lease=PATIENT)


SCENARIOS = {
    "workers": Scenario(workers),
    "server": Scenario(server, seconds=5.0),
    "redis": Scenario(
        lambda folder: server(folder, system_redis),
        seconds=5.0,
        needs=system_redis,
        missing="no redis-server in the system's folders (Debian: redis-server)",
    ),
    "amnesia": Scenario(amnesia),
    "network": Scenario(network),
    "memory": Scenario(memory),
    "sentinel": Scenario(sentinel, seconds=6.0),
    "cluster": Scenario(cluster, seconds=8.0),
}
