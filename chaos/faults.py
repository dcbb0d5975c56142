"""What is done to workers, to one server, and to the way there. Each returns when all is well again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis

from chaos import crew
from chaos.crew import Crew
from chaos.history import Loss
from chaos.network import Network
from chaos.servers import Server

Chance = random.Random
KILL = "SIGKILL of a worker"


@dataclass(frozen=True, slots=True)
class Injury:
    """One way to hurt."""

    name: str
    inflict: Callable[[Chance, Crew], int | None]
    """Do it, and wait until all is well. The number of the worker that it hit; None: it hit others."""
    outage: bool = False
    """Whether calls have to wait meanwhile."""
    loses: Loss = ""
    """What of the table's data goes by it."""
    anew: bool = False
    """Whether a server begins anew by it."""


def simple(
    name: str, inflict: Callable[[Chance], object], outage: bool = False, loses: Loss = "", anew: bool = False
) -> Injury:
    """An injury of others than workers."""

    def do(chance: Chance, crew: Crew) -> None:
        inflict(chance)

    return Injury(name, do, outage, loses, anew or bool(loses))


def of_workers() -> list[Injury]:
    """SIGKILL, and SIGSTOP for a while."""

    def kill(chance: Chance, workers: Crew) -> int:
        victim = chance.choice(workers.working)
        workers.kill(victim)
        return victim.plan.number

    def stop(chance: Chance, workers: Crew) -> int:
        victim = chance.choice(workers.working)
        crew.pause(victim)
        time.sleep(chance.uniform(0.2, 3.0))
        crew.resume(victim)
        return victim.plan.number

    return [Injury(KILL, kill), Injury("SIGSTOP of a worker", stop)]


def of_server(server: Server) -> list[Injury]:
    """What a server that keeps its data must be outlived for."""

    def stop(chance: Chance) -> None:
        server.pause()
        time.sleep(chance.uniform(0.2, 1.0))
        server.resume()
        server.client.ping()

    def restart(chance: Chance) -> None:
        server.kill()
        time.sleep(chance.uniform(0.0, 0.3))
        server.start()

    def pause(chance: Chance) -> None:
        server.client.execute_command("CLIENT", "PAUSE", chance.randrange(100, 600), "ALL")
        server.client.ping()

    return [
        simple("SIGSTOP of the server", stop, outage=True),
        simple("SIGKILL of the server, restart with its data", restart, outage=True, anew=True),
        simple("SCRIPT FLUSH", lambda _: server.client.script_flush()),
        simple("CLIENT KILL", lambda _: kill_clients(server.client)),
        simple("CLIENT PAUSE", pause, outage=True),
    ]


def long_pause(server: Server, seconds: float) -> Injury:
    """A server that says nothing for so long that all owners seem dead."""

    def stop(chance: Chance) -> None:
        server.pause()
        time.sleep(seconds)
        server.resume()
        server.client.ping()

    return simple(f"SIGSTOP of the server for {seconds:g} s", stop, outage=True)


def amnesia(server: Server) -> Injury:
    """A server that comes back empty."""

    def forget(chance: Chance) -> None:
        server.kill()
        server.forget()
        time.sleep(chance.uniform(0.0, 0.2))
        server.start()

    return simple("SIGKILL of the server, restart without its data", forget, outage=True, loses="all")


def of_memory(server: Server) -> Injury:
    """Other keys on the server use up its memory; live rooms must stay, and be cleared all the same."""

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

    return simple("maxmemory reached", fill)


def of_network(network: Network) -> list[Injury]:
    """What may happen on the way."""

    def slow(chance: Chance) -> None:
        network.delay = chance.uniform(0.01, 0.15)
        time.sleep(chance.uniform(0.4, 1.0))
        network.delay = 0.0

    def deaf(chance: Chance) -> None:
        network.deaf = True
        time.sleep(chance.uniform(0.1, 0.6))
        network.deaf = False
        network.cut()

    def refuse(chance: Chance) -> None:
        network.refusing = True
        network.cut()
        time.sleep(chance.uniform(0.1, 0.6))
        network.refusing = False

    return [
        simple("connections cut", lambda _: network.cut()),
        simple("connections slow", slow, outage=True),
        simple("connections deaf, then cut", deaf, outage=True),
        simple("connections refused", refuse, outage=True),
    ]


def kill_clients(client: redis.Redis) -> None:
    """Close every connection but this."""
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def is_replica_of(client: redis.Redis, port: int) -> bool:
    """Whether it follows that primary, and has all its data."""
    state = client.info("replication")
    return (state["role"], state.get("master_port"), state.get("master_link_status")) == ("slave", port, "up")
