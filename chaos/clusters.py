"""A Redis Cluster of three primaries with a replica each, whose slots move while it is in use."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from chaos.faults import Chance, Fault, kill_clients, server_fault
from chaos.servers import Server, free_port, until

PRIMARIES = 3
SLOTS = 16384
OPTIONS = (
    *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "1000"),
    *("--cluster-replica-validity-factor", "0", "--cluster-migration-barrier", "99"),
    *("--repl-diskless-sync-delay", "0"),
)


class Cluster(contextlib.ExitStack):
    """Six nodes, whose roles and slots change. A context manager."""

    def __init__(self, folder: Path, tags: list[str]) -> None:
        super().__init__()
        self._tags = tags
        self.nodes = [self.enter_context(_node(folder / f"node-{n}")) for n in range(2 * PRIMARIES)]
        self._ids = {node: node.client.execute_command("CLUSTER MYID") for node in self.nodes}
        primaries, replicas = self.nodes[:PRIMARIES], self.nodes[PRIMARIES:]
        bounds = [SLOTS * share // PRIMARIES for share in range(PRIMARIES + 1)]
        for number, node in enumerate(primaries):
            node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            port = node.client.config_get("cluster-port")["cluster-port"]
            self.nodes[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, port)
        for primary, replica in zip(primaries, replicas, strict=True):
            until(functools.partial(self._replicate, replica, primary), "a replica knows its primary")
        self._await_health()

    @property
    def url(self) -> str:
        """The URL with all nodes, in case one is down when a worker starts."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://{hosts}"

    def faults(self) -> list[Fault]:
        return [
            server_fault("SIGKILL of a master, replica promoted", self._kill, outage=True, loses="latest"),
            server_fault("slots migrated", self._migrate, triggers_recovery=True),
            server_fault("SCRIPT FLUSH on a master", lambda c: c.choice(self.primaries()).client.script_flush()),
            server_fault("CLUSTER FAILOVER", self._fail_over, outage=True, triggers_recovery=True),
            server_fault(
                "CLIENT KILL on a master", lambda chance: kill_clients(chance.choice(self.primaries()).client)
            ),
        ]

    def primaries(self) -> list[Server]:
        """The running nodes that hold slots."""
        return [node for node in self.nodes if node.is_running and node.client.info("replication")["role"] == "master"]

    def _kill(self, chance: Chance) -> None:
        victim = chance.choice(self.primaries())
        victim.kill()
        until(lambda: len(self.primaries()) == PRIMARIES, "a replica is promoted")
        victim.start()
        self._await_health()

    def _fail_over(self, chance: Chance) -> None:
        """Promote a replica without loss: it first waits for all that its primary acknowledged."""
        node = chance.choice([node for node in self.nodes if node not in self.primaries()])
        node.client.execute_command("CLUSTER", "FAILOVER")
        until(lambda: node in self.primaries(), "the replica has taken over")
        self._await_health()

    def _migrate(self, chance: Chance) -> None:
        """Move one shard's slot to another master, key by key, as redis-cli --cluster reshard does."""
        slot = key_slot(chance.choice(self._tags).encode())
        source = self._owner(slot)
        target = chance.choice([node for node in self.primaries() if node is not source])
        target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self._ids[source])
        source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self._ids[target])
        while keys := source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
            source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source, *(one for one in self.primaries() if one not in (source, target))):
            node.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self._ids[target])
        until(
            lambda: all(_owner_id(node.client, slot) == self._ids[target] for node in self.nodes),
            "every node knows the slot's new owner",
        )

    def _owner(self, slot: int) -> Server:
        owner = _owner_id(self.nodes[0].client, slot)
        return next(node for node in self.nodes if self._ids[node] == owner)

    def _replicate(self, replica: Server, primary: Server) -> bool:
        return bool(replica.client.execute_command("CLUSTER", "REPLICATE", self._ids[primary]))

    def _await_health(self) -> None:
        until(lambda: all(_is_healthy(node.client) for node in self.nodes), "every node of the cluster is healthy")


def _node(folder: Path) -> Server:
    # Nodes need a second port, for the cluster bus.
    return Server(folder, *OPTIONS, "--cluster-port", str(free_port()))


def _is_healthy(client: redis.Redis) -> bool:
    """Whether a node sees a healthy cluster with all roles filled, and is in sync itself if it is a replica."""
    if client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
        return False
    nodes: dict[str, Any] = client.execute_command("CLUSTER NODES")
    roles = [flag for node in nodes.values() for flag in node["flags"].split(",") if flag in ("master", "slave")]
    failing = any("fail" in node["flags"] or not node["connected"] for node in nodes.values())
    state = client.info("replication")
    return (
        not failing
        and sorted(roles) == ["master"] * PRIMARIES + ["slave"] * PRIMARIES
        and (state["role"] == "master" or state["master_link_status"] == "up")
    )


def _owner_id(client: redis.Redis, slot: int) -> str:
    for first, last, primary, *_ in client.execute_command("CLUSTER SLOTS"):
        if first <= slot <= last:
            return str(primary[2])
    return ""
