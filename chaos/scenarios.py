"""The scenarios: which servers a run has, how workers find them, and which faults are injected."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import redis

from chaos import faults
from chaos.clusters import Cluster
from chaos.engine import Engine
from chaos.faults import Fault
from chaos.lagging import Lagging
from chaos.proxy import Proxy
from chaos.recording import LEASE
from chaos.replicas import Replicas
from chaos.servers import DURABLE, Server, system_redis
from chaos.waking import Waking
from redis_kvpoll.protocol import keys

NAMESPACE = "chaos"
LONG_LEASE = 10.0
"""The TTL of leases where the network may be slower for one worker than for the others: longer than the deadline, as
docs/guarantees.md requires."""

QUIET = (0.2, 3.5)
"""Seconds between faults that lose data: often long enough for the table to be recovered before the next one."""


@dataclass
class Setup:
    """The environment of one run."""

    url: str
    """The URL that workers use."""
    faults: list[Fault]
    primaries: Callable[[], list[redis.Redis]]
    """Clients of all servers that hold keys, once no worker makes calls."""
    shards: int = 1
    feed_length: int = 100_000
    """Entries that a shard's feed keeps."""
    pause: tuple[float, float] = (0.1, 0.4)
    """Seconds between faults."""
    lease: float = LEASE
    """The TTL of the workers' leases in seconds."""
    refusals: tuple[str, ...] = ()
    """Words of the server's refusals that the faults explain."""
    is_holding: bool = False
    """Whether workers also hold rooms for the whole run."""
    mirrors: int = 1
    followers: int = 0
    """Mirrors and followers of failures of each worker."""
    has_plain: bool = False
    """Whether a plain redis-py client runs beside the workers, for comparison."""
    engine: Engine | None = None
    """An engine that runs instead of workers."""
    direct: str = ""
    """The URL that the observer uses, past the network faults; by default that of the workers."""

    def __post_init__(self) -> None:
        self.direct = self.direct or self.url


@dataclass(frozen=True)
class Scenario:
    """A kind of run, and its duration in the short and the long form."""

    make: Callable[[Path], AbstractContextManager[Setup]]
    seconds: float = 4.0
    long_seconds: float = 60.0
    needs: Callable[[], object] = field(default=lambda: True)
    """Returns something false where the scenario cannot run."""
    missing: str = ""
    """What is missing then."""


def _single(server: Server, kinds: list[Fault]) -> Setup:
    return Setup(server.url, kinds, lambda: [server.client])


@contextlib.contextmanager
def workers(folder: Path) -> Iterator[Setup]:
    """Worker faults. The feed is short, so that a stopped worker's mirror finds a gap. The server pauses for three
    times a lease's TTL, in which no owner must be lost."""
    with Server(folder / "server") as server:
        kinds = [*faults.of_workers(), faults.long_pause(server, 3 * LEASE)]
        yield Setup(server.url, kinds, lambda: [server.client], feed_length=100)


@contextlib.contextmanager
def failures(folder: Path) -> Iterator[Setup]:
    """Followers of failures, on rooms that are failed, cleared and opened again. The stream is short, so that a stopped
    worker's follower finds a gap. So is the feed then, and no fault is a restart: after one, a creator that was stopped
    would find its opening trimmed, and bring back a room that others have cleared (docs/guarantees.md)."""
    with Server(folder / "server") as server:
        kinds = [*faults.of_workers(), faults.cut_clients(server)]
        yield Setup(server.url, kinds, lambda: [server.client], feed_length=100, followers=1)


@contextlib.contextmanager
def followers(folder: Path) -> Iterator[Setup]:
    """32 followers of a server that loses its data and its connections: 16 mirrors, and 16 followers of failures."""
    with Server(folder / "server") as server:
        kinds = [faults.amnesia(server), faults.cut_clients(server)]
        clients = lambda: [server.client]  # noqa: E731
        yield Setup(server.url, kinds, clients, lease=LONG_LEASE, pause=(0.5, 1.5), mirrors=4, followers=4)


@contextlib.contextmanager
def server(folder: Path, program: Callable[[], str | None] = lambda: None) -> Iterator[Setup]:
    with Server(folder / "server", *DURABLE, program=program()) as server:
        yield _single(server, faults.of_server(server))


@contextlib.contextmanager
def aof(folder: Path) -> Iterator[Setup]:
    """Restarts that lose nothing, so they explain nothing, neither to the table nor to followers of failures."""
    with Server(folder / "server", *DURABLE) as server:
        clients = lambda: [server.client]  # noqa: E731
        yield Setup(server.url, [faults.restart(server)], clients, lease=LONG_LEASE, is_holding=True, followers=1)


@contextlib.contextmanager
def amnesia(folder: Path) -> Iterator[Setup]:
    with Server(folder / "server") as server:
        yield _single(server, [faults.amnesia(server)])


@contextlib.contextmanager
def network(folder: Path) -> Iterator[Setup]:
    """Network faults, beside a plain client. The socket timeout is short, so that a call has time for several attempts,
    which may overlap."""
    with Server(folder / "server") as server, Proxy(server.port, inspect=False) as proxy:
        url = f"{proxy.url}?socket_timeout=0.3"
        clients = lambda: [server.client]  # noqa: E731
        kinds = faults.of_network(proxy)
        yield Setup(url, kinds, clients, shards=4, direct=server.url, lease=LONG_LEASE, has_plain=True)


@contextlib.contextmanager
def memory(folder: Path) -> Iterator[Setup]:
    with Server(folder / "server") as server:
        yield Setup(server.url, [faults.of_memory(server)], lambda: [server.client], refusals=("OOM",))


@contextlib.contextmanager
def sentinel(folder: Path) -> Iterator[Setup]:
    with Replicas(folder) as replicas:
        yield Setup(replicas.url, replicas.faults(), lambda: [replicas.primary.client], lease=LONG_LEASE)


@contextlib.contextmanager
def lag(folder: Path) -> Iterator[Setup]:
    """A replica that lags behind is promoted, at the same address."""
    with Lagging(folder) as lagging:
        clients = lambda: [lagging.primary.client]  # noqa: E731
        yield Setup(lagging.url, lagging.faults(), clients, shards=2, pause=QUIET, lease=LONG_LEASE, is_holding=True)


@contextlib.contextmanager
def wakes(folder: Path) -> Iterator[Setup]:
    """A primary that stood still acts as one again, after Sentinel has promoted the replica. A lease outlasts the time
    for which its heartbeats may go to the wrong one."""
    with Waking(folder) as replicas:
        clients = lambda: [replicas.primary.client]  # noqa: E731
        yield Setup(
            replicas.url, replicas.faults(), clients, shards=2, pause=QUIET, lease=3 * LONG_LEASE, is_holding=True
        )


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Setup]:
    """Cluster faults. One shard's heartbeat may wait for another's."""
    shards = 6
    with Cluster(folder, keys.tags(NAMESPACE, shards)) as cluster:
        clients = lambda: [node.client for node in cluster.primaries()]  # noqa: E731
        yield Setup(cluster.url, cluster.faults(), clients, shards=shards, lease=LONG_LEASE)


@contextlib.contextmanager
def agent(folder: Path) -> Iterator[Setup]:
    """Processes of an engine, their agent, and a server that keeps its data."""
    with Server(folder / "server", *DURABLE) as server, Engine(folder, server) as engine:
        yield Setup(server.url, engine.faults(), lambda: [server.client], engine=engine)


SCENARIOS = {
    "workers": Scenario(workers),
    "failures": Scenario(failures, seconds=6.0),
    "followers": Scenario(followers, seconds=6.0),
    "server": Scenario(server, seconds=5.0),
    "redis": Scenario(
        lambda folder: server(folder, system_redis),
        seconds=5.0,
        needs=system_redis,
        missing="no redis-server in the system's folders (Debian: redis-server)",
    ),
    "aof": Scenario(aof),
    "amnesia": Scenario(amnesia),
    "network": Scenario(network),
    "memory": Scenario(memory),
    "sentinel": Scenario(sentinel, seconds=6.0),
    "lag": Scenario(lag, seconds=6.0),
    "wakes": Scenario(wakes),
    "cluster": Scenario(cluster, seconds=8.0),
    "agent": Scenario(agent, seconds=1.0),
}
