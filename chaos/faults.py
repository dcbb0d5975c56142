"""The faults of workers, of one server, and of the network. Each injection returns when everything works again."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import redis

from chaos import pool
from chaos.history import Loss
from chaos.pool import WorkerPool
from chaos.proxy import Proxy
from chaos.servers import Server

Chance = random.Random
KILL = "SIGKILL of a worker"


class Injected(NamedTuple):
    """What is known of an injected fault once it is over."""

    worker: int | None = None
    """The worker that it hit."""
    kept_until: float = -math.inf
    """See FaultEvent."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault, and how to inject it."""

    name: str
    inject: Callable[[Chance, WorkerPool], Injected]
    """Inject it and wait for the end."""
    outage: bool = False
    """Whether calls have to wait meanwhile."""
    loses: Loss = ""
    """Which data the table loses."""
    triggers_recovery: bool = False
    """Whether stores find a new or another server, and replay their rooms."""


def server_fault(
    name: str,
    inject: Callable[[Chance], object],
    outage: bool = False,
    loses: Loss = "",
    triggers_recovery: bool = False,
) -> Fault:
    """A fault that hits no worker. What ``inject`` returns matters only if it is an Injected."""

    def on_pool(chance: Chance, workers: WorkerPool) -> Injected:
        found = inject(chance)
        return found if isinstance(found, Injected) else Injected()

    return Fault(name, on_pool, outage, loses, triggers_recovery or bool(loses))


def of_workers() -> list[Fault]:
    """SIGKILL, and SIGSTOP for a while."""

    def kill(chance: Chance, workers: WorkerPool) -> Injected:
        victim = chance.choice(workers.running)
        workers.kill(victim)
        return Injected(victim.plan.number)

    def stop(chance: Chance, workers: WorkerPool) -> Injected:
        victim = chance.choice(workers.running)
        pool.pause(victim)
        time.sleep(chance.uniform(0.2, 3.0))
        pool.resume(victim)
        return Injected(victim.plan.number)

    return [Fault(KILL, kill), Fault("SIGSTOP of a worker", stop)]


def of_server(server: Server) -> list[Fault]:
    """Faults of a server that keeps its data."""

    def stop(chance: Chance) -> None:
        server.pause()
        time.sleep(chance.uniform(0.2, 1.0))
        server.resume()
        server.client.ping()

    def pause(chance: Chance) -> None:
        server.client.execute_command("CLIENT", "PAUSE", chance.randrange(100, 600), "ALL")
        server.client.ping()

    return [
        server_fault("SIGSTOP of the server", stop, outage=True),
        restart(server),
        server_fault("SCRIPT FLUSH", lambda _: server.client.script_flush()),
        cut_clients(server),
        server_fault("CLIENT PAUSE", pause, outage=True),
    ]


def cut_clients(server: Server) -> Fault:
    """Connections that the server closes."""
    return server_fault("CLIENT KILL", lambda _: kill_clients(server.client))


def restart(server: Server) -> Fault:
    """A server that comes back with all its data."""

    def kill(chance: Chance) -> None:
        server.kill()
        time.sleep(chance.uniform(0.0, 0.3))
        server.start()

    name = "SIGKILL of the server, restart with its data"
    return server_fault(name, kill, outage=True, triggers_recovery=True)


def long_pause(server: Server, seconds: float) -> Fault:
    """A pause of the server in which every lease expires."""

    def stop(chance: Chance) -> None:
        server.pause()
        time.sleep(seconds)
        server.resume()
        server.client.ping()

    return server_fault(f"SIGSTOP of the server for {seconds:g} s", stop, outage=True)


def amnesia(server: Server) -> Fault:
    """A server that comes back empty."""

    def forget(chance: Chance) -> None:
        server.kill()
        server.forget()
        time.sleep(chance.uniform(0.0, 0.2))
        server.start()

    return server_fault("SIGKILL of the server, restart without its data", forget, outage=True, loses="all")


def of_memory(server: Server) -> Fault:
    """Other keys use up the server's memory; live rooms must stay, and clears must work."""

    def fill(chance: Chance) -> None:
        server.client.config_set("maxmemory", server.client.info("memory")["used_memory"] + 200_000)
        try:
            while True:
                server.client.set(f"other:{chance.randrange(10**9)}", "x" * 10_000, ex=60)
        except redis.ResponseError:
            time.sleep(chance.uniform(0.2, 0.6))
        server.client.config_set("maxmemory", 0)
        if others := list(server.client.scan_iter("other:*")):
            server.client.delete(*others)

    return server_fault("maxmemory reached", fill)


def of_network(proxy: Proxy) -> list[Fault]:
    """Faults between workers and server."""

    def slow(chance: Chance) -> None:
        proxy.delay = chance.uniform(0.01, 0.15)
        time.sleep(chance.uniform(0.4, 1.0))
        proxy.delay = 0.0

    def stall(chance: Chance) -> None:
        proxy.stalled = True
        time.sleep(chance.uniform(0.1, 0.6))
        proxy.stalled = False
        proxy.cut()

    def refuse(chance: Chance) -> None:
        proxy.refusing = True
        proxy.cut()
        time.sleep(chance.uniform(0.1, 0.6))
        proxy.refusing = False

    return [
        server_fault("connections cut", lambda _: proxy.cut()),
        server_fault("connections slow", slow, outage=True),
        server_fault("connections stalled, then cut", stall, outage=True),
        server_fault("connections refused", refuse, outage=True),
    ]


def kill_clients(client: redis.Redis) -> None:
    """Close every connection except this client's."""
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def is_replica_of(client: redis.Redis, port: int) -> bool:
    """Whether a server replicates the primary at a port, and is in sync with it."""
    state = client.info("replication")
    return (state["role"], state.get("master_port"), state.get("master_link_status")) == ("slave", port, "up")
