"""A real Redis Cluster of three nodes on loopback, whose slots can be moved."""

from __future__ import annotations

from functools import cache

import redis
from redis.crc import key_slot

from tests.support import pace, real, servers

SLOTS = 16384
AUTH = ("AUTH2", *servers.HARNESS.values())


def node() -> real.PortServer:
    """A server in cluster mode; it has a second port for the cluster bus."""
    return real.PortServer(
        *("--cluster-enabled", "yes", "--cluster-port", str(real.free_port())),
        *("--cluster-node-timeout", pace.milliseconds(2), "--cluster-config-file", "nodes.conf"),
        *("--repl-diskless-sync-delay", "0"),
    )


def meet(client: redis.Redis, other: real.PortServer) -> None:
    """Make a node known to another."""
    with other.client(decode_responses=True) as there:
        port = there.config_get("cluster-port")["cluster-port"]
    client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, port)


class Cluster:
    """Three primaries that share the slots evenly. The cluster ends with this process."""

    def __init__(self) -> None:
        self.nodes = [node() for _ in range(3)]
        self.clients = [node.client(decode_responses=True) for node in self.nodes]
        self._ids = [client.execute_command("CLUSTER MYID") for client in self.clients]
        bounds = [SLOTS * share // 3 for share in range(4)]
        for client, first, after in zip(self.clients, bounds, bounds[1:], strict=False):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
        self._owner = [share for share in range(3) for _ in range(bounds[share], bounds[share + 1])]
        self._moving: set[str] = set()
        for number, client in enumerate(self.clients):
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for other in self.nodes[1:]:
            meet(self.clients[0], other)
        real.until(lambda: all(map(_is_ready, self.clients)), "the cluster is up")

    @property
    def url(self) -> str:
        """One node is enough: the others are found."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def owner(self, tag: str) -> redis.Redis:
        """A client to the node that holds the slot of a hash tag."""
        return self.clients[self._owner[key_slot(tag.encode())]]

    def start_moving(self, tag: str) -> redis.Redis:
        """Start to move a tag's slot to the next node; return a client to that. The source answers ASK from now on."""
        slot = key_slot(tag.encode())
        source = self._owner[slot]
        target = (source + 1) % 3
        self.clients[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self._ids[source])
        self.clients[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self._ids[target])
        self._moving.add(tag)
        return self.clients[target]

    def move_key(self, key: str) -> None:
        """Move one key of a slot that is being moved."""
        source = self._owner[key_slot(key.encode())]
        port = self.nodes[(source + 1) % 3].port
        self.clients[source].execute_command("MIGRATE", "127.0.0.1", port, key, 0, 5000, *AUTH)

    def finish_moving(self, tag: str) -> None:
        """Move the keys and then the slot. The source answers MOVED from now on."""
        slot = key_slot(tag.encode())
        source = self._owner[slot]
        target = (source + 1) % 3
        while keys := self.clients[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            port = self.nodes[target].port
            self.clients[source].execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, *AUTH, "KEYS", *keys)
        for number in (target, source):
            self.clients[number].execute_command("CLUSTER", "SETSLOT", slot, "NODE", self._ids[target])
        self._owner[slot] = target
        self._moving.discard(tag)

    def finish_all_moves(self) -> None:
        """Finish what a test that failed has left half done."""
        for tag in list(self._moving):
            self.finish_moving(tag)


@cache
def _started() -> Cluster:
    return Cluster()


def shared() -> Cluster:
    """The cluster of this process, started when it is first asked for. No slot of it moves."""
    cluster = _started()
    cluster.finish_all_moves()
    return cluster


def shared_in(world: real.World) -> Cluster:
    """The same, for a test whose world empties it in the end."""
    cluster = shared()
    world.share(*cluster.nodes)
    return cluster


def _is_ready(client: redis.Redis) -> bool:
    """Whether a node reports the cluster as ok and knows the slots of all nodes."""
    is_ok = client.execute_command("CLUSTER INFO")["cluster_state"] == "ok"
    return is_ok and len(client.execute_command("CLUSTER SLOTS")) == 3
