"""The setting of a comparison: what its processes share, its running services, and the missing ways."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.managers import SyncManager
from multiprocessing.synchronize import Lock

from bench import services
from bench.ground import Ground
from bench.peers.etcd import Etcd
from bench.peers.local import Manager, Replica
from bench.peers.nats import Nats
from bench.peers.postgres import Postgres
from bench.peers.texts import Locked, Mirrored, Naive, Ours, Watch
from bench.peers.way import Shared, Way

OURS = "ours"
MIRROR = "mirror"
WAYS: dict[str, type[Way]] = {
    OURS: Ours,
    MIRROR: Mirrored,
    "watch": Watch,
    "lock": Locked,
    "manager": Manager,
    "zmq": Replica,
    "postgres": Postgres,
    "etcd": Etcd,
    "nats": Nats,
    "naive": Naive,
}
_QUICK = "not in a quick run"
_PRELOAD = ["bench.peers.rates", "bench.peers.known", "zmq", "psycopg", "nats"]


@dataclass(frozen=True, slots=True)
class Contest:
    """One comparison, while its services run."""

    ground: Ground
    context: ForkServerContext
    """Starts a process within 20 ms from one that has imported everything; some measurements need dozens."""
    manager: SyncManager
    lock: Lock
    addresses: dict[str, str]
    missing: dict[str, str] = field(default_factory=dict)

    def turn(self, name: str, title: str, count: int) -> list[Shared]:
        """What each process of a turn gets, except for the lock, which only a starting process can receive."""
        table, ports = self.manager.dict(), services.free_ports(count)
        address = self.addresses.get(WAYS[name].service, "")
        namespace = f"{self.ground.id}.{title}.{name}"
        return [Shared(self.ground.url, namespace, table, address, ports, count, number) for number in range(count)]

    def is_available(self, name: str) -> bool:
        return name not in self.missing

    @contextlib.contextmanager
    def may_fail(self, name: str) -> Iterator[None]:
        """Note the failure of an alternative in the tables and go on; a failure of our own way ends the run."""
        try:
            yield
        except Exception as error:
            if name == OURS:
                raise
            self.missing[name] = f"failed: {error!r}"[:120]


@contextlib.contextmanager
def opened(ground: Ground, only: Collection[str] | None = None) -> Iterator[Contest]:
    """Start the services, or only some of them for a short run."""
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    with contextlib.ExitStack() as closing:
        contest = Contest(ground, context, closing.enter_context(context.Manager()), context.Lock(), {})
        for name, way in WAYS.items():
            if not way.service:
                continue
            try:
                if only is not None and way.service not in only:
                    raise services.ServiceMissingError(_QUICK)
                address = closing.enter_context(services.running(way.service))
                way.set_up(address)
                contest.addresses[way.service] = address
            except services.ServiceMissingError as error:
                contest.missing[name] = str(error)
        yield contest
