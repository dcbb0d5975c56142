"""An engine whose processes use one agent, and the faults of both. See engine_process for what the processes do.

A fault ends when everything works again. Whether a call waits is judged by order, not by time: while no agent runs
that could answer, and no other can start, every process must make its calls. One that does not ends the run.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from chaos import told
from chaos.children import Child, launch
from chaos.engine_process import IDLE_SECONDS, NAMESPACE, SHARED, ProcessPlan
from chaos.faults import Chance, Fault, cut_clients, restart, server_fault
from chaos.history import CallRecord, read
from chaos.pool import ERROR_WORDS
from chaos.servers import ChaosError, Server, until
from chaos.violations import Violation
from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.agent.client.launch import Launcher
from redis_kvpoll.agent.client.open_channel import APPLICATION, agent_name
from redis_kvpoll.agent.rendezvous import Rendezvous
from redis_kvpoll.integrations.sglang.worker import hello_of

RANKS = 3
LEASE = 180.0
"""So long that none expires, on a busy machine either: what fails within a run has failed by the kernel's word."""
TTL = 1800.0
DEADLINE = 5.0
PATIENCE = 90.0
"""Seconds for anything of an engine to happen: less than a lease."""
ERRORS = (*ERROR_WORDS, "lost its lease")


class Engine:
    """The processes of an engine, and their agents. A context manager."""

    def __init__(self, folder: Path, server: Server) -> None:
        self._found: list[Violation] = []
        self._folder = folder
        self._server = server
        self._start = time.monotonic()
        self._count = 0
        self._running: list[Child[ProcessPlan]] = []
        self._ended: list[Child[ProcessPlan]] = []
        self._leaving: dict[int, float] = {}
        """When each process that leaves began to."""
        self._held: list[int] = []
        """Children that hold sockets of their parents."""
        self._store = StatusStore.from_url(server.url, namespace=f"{NAMESPACE}-prefill", policy="strict")

    def __enter__(self) -> Engine:
        self._environment = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = str(self._folder)
        try:
            for rank in range(RANKS):
                self._launch(rank)
            for child in self._running:
                child.receive(PATIENCE)
        except BaseException:  # one of them does not start
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._running:
            child.end()
        for pid in [*self._agents().values(), *self._held]:
            _signal(pid, signal.SIGKILL)
        self._store.close()
        if self._environment is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = self._environment

    def _agents(self) -> dict[int, int]:
        """Return the processes of all agents that have run, by their numbers."""
        found = re.findall(r"agent (\d+) runs as process (\d+)", self._log())
        return {int(number): int(pid) for number, pid in found}

    def calls(self) -> list[CallRecord]:
        children = self._ended + self._running
        return [record for one in children for record in read(Path(one.plan.file), one.plan.number)]

    # Faults

    def faults(self) -> list[Fault]:
        """Return every fault of this engine, its agent and its server."""
        faults = {
            "SIGKILL of the agent": self._kill_agent,
            "SIGSTOP of the agent": self._stop_agent,
            "SIGSTOP of the agent until another has its place": self._replace_agent,
            "two agents at once": self._start_another_agent,
            "the agent's ring is full": self._fill_ring,
            "SIGKILL of a process": self._kill_process,
            "SIGKILL of a process, a child holds its socket": self._kill_process_with_child,
            "SIGKILL of a process with messages queued": self._kill_process_with_messages,
            "a process leaves with messages queued": self._leave_with_messages,
            "SIGSTOP of the server": self._stop_server,
        }
        own = [server_fault(name, inject) for name, inject in faults.items()]
        return [*own, restart(self._server), cut_clients(self._server)]

    def _kill_agent(self, _: Chance) -> None:
        number, pid = self._agent()
        _signal(pid, signal.SIGKILL)
        self._await_newer(number)

    def _stop_agent(self, chance: Chance) -> None:
        with self._stopped_agent():
            time.sleep(chance.uniform(0.05, 0.8))

    def _replace_agent(self, _: Chance) -> None:
        with self._stopped_agent() as (number, pid):
            self._await_newer(number)
        until(lambda: not _is_alive(pid), "the former agent ends", PATIENCE)

    def _start_another_agent(self, _: Chance) -> None:
        number, pid = self._agent()
        Launcher(self._name, APPLICATION).connect(newer_than=number)[0].close()
        until(lambda: not _is_alive(pid), "the former agent ends", PATIENCE)
        self._await_newer(number)

    def _fill_ring(self, chance: Chance) -> None:
        with Rendezvous(self._name).locked(PATIENCE), self._stopped_agent():
            if not all(self._ask_for_calls(3_000 + chance.randrange(1_500))):
                raise ChaosError("the ring of a stopped agent took everything")

    def _kill_process(self, chance: Chance) -> None:
        with self._victim(chance) as victim:
            victim.end()
            self._await_failure(victim)
        self._replace(victim)

    def _kill_process_with_child(self, chance: Chance) -> None:
        with self._victim(chance) as victim:
            self._held.append(int(victim.ask(PATIENCE, "hold")))
            victim.end()
            self._await_failure(victim)
        self._replace(victim)

    def _kill_process_with_messages(self, chance: Chance) -> None:
        with self._victim(chance) as victim:
            with self._stopped_agent():
                victim.ask(PATIENCE, "calls", chance.randrange(20, 60))
                victim.end()
            self._await_failure(victim)
        self._replace(victim)

    def _leave_with_messages(self, chance: Chance) -> None:
        with self._victim(chance) as victim:
            with self._stopped_agent():
                self._leaving[victim.plan.number] = time.monotonic()
                victim.ask(PATIENCE, "calls", chance.randrange(20, 60))
                victim.ask(PATIENCE, "leave")
                victim.end()
            self._await_failure(victim)
        self._replace(victim)

    def _stop_server(self, chance: Chance) -> None:
        self._server.pause()
        try:
            self._ask_for_calls(chance.randrange(100, 200))
        finally:
            self._server.resume()
        self._server.client.ping()

    @contextlib.contextmanager
    def _victim(self, chance: Chance) -> Iterator[Child[ProcessPlan]]:
        """Choose a process whose agent has all that it told before, and let no other agent start within the block.

        Of a process that ends together with its agent only its lease tells.
        """
        victim = chance.choice(self._running)
        while True:
            self._ask_if_told(victim, "settle")
            with Rendezvous(self._name).locked(PATIENCE):
                if int(victim.ask(PATIENCE, "agent")) == self._agent()[0]:
                    yield victim
                    return

    def _ask_if_told(self, child: Child[ProcessPlan], command: str) -> None:
        if not child.ask(IDLE_SECONDS + PATIENCE, command):
            self._found.append(Violation("the table does not have all changes", f"process {child.plan.number}"))

    def _replace(self, victim: Child[ProcessPlan]) -> None:
        self._running.remove(victim)
        self._ended.append(victim)
        self._launch(victim.plan.rank).receive(PATIENCE)

    def _await_failure(self, victim: Child[ProcessPlan]) -> None:
        """Wait until no room is live in which only the ended process has a part."""
        rooms = sorted({call.room for call in read(Path(victim.plan.file), victim.plan.number) if call.room < SHARED})
        live = (KVPoll.Bootstrapping, KVPoll.WaitingForInput, KVPoll.Transferring)
        rank = victim.plan.rank
        try:
            until(lambda: not any(self._store.collect(room).get(rank) in live for room in rooms), "they fail", PATIENCE)
        except ChaosError as error:
            rule = "rooms of a process that has ended do not fail before its lease"
            self._found.append(Violation(rule, f"process {victim.plan.number}: {error}"))

    def _ask_for_calls(self, count: int) -> list[int]:
        """Have every process make calls now, which nothing may keep waiting."""
        for child in self._running:
            child.send(["calls", count])
        return [int(json.loads(child.receive(PATIENCE))) for child in self._running]

    # Agents

    @property
    def _name(self) -> str:
        plan = self._running[0].plan
        return agent_name(hello_of(plan.settings, plan.identity))

    def _agent(self) -> tuple[int, int]:
        """Return the number and the process of the newest agent, once it runs."""

        def newest() -> tuple[int, int] | None:
            number = Rendezvous(self._name).newest()
            pid = self._agents().get(number, 0)
            return (number, pid) if _is_alive(pid) else None

        number, pid = until(newest, "the newest agent runs", PATIENCE)
        return number, pid

    @contextlib.contextmanager
    def _stopped_agent(self) -> Iterator[tuple[int, int]]:
        number, pid = self._agent()
        _signal(pid, signal.SIGSTOP)
        try:
            yield number, pid
        finally:
            _signal(pid, signal.SIGCONT)

    def _await_newer(self, number: int) -> None:
        """Wait until every process is connected to a newer agent."""
        for child in self._running:
            until(partial(self._has_newer, child, number), "a newer agent", PATIENCE)

    def _has_newer(self, child: Child[ProcessPlan], number: int) -> bool:
        return int(child.ask(PATIENCE, "agent")) > number

    def _log(self) -> str:
        log = Rendezvous(self._name).log_path()
        return log.read_text(errors="replace") if log.exists() else ""

    def _launch(self, rank: int) -> Child[ProcessPlan]:
        number, self._count = self._count, self._count + 1
        file = self._folder / f"process-{number}.jsonl"
        plan = ProcessPlan(
            number, rank, RANKS, self._server.url, str(file), f"{number}", self._start, LEASE, TTL, DEADLINE
        )
        child = launch("chaos.engine_process", plan, file)
        self._running.append(child)
        return child

    # Check

    def check(self) -> list[Violation]:
        """End all calls, and check the table, the processes and what they have printed."""
        leaving = [self._leaving.get(one.plan.number, math.inf) for one in self._ended]
        ended = zip(self._ended, leaving, strict=True)
        processes = [told.Process(one.plan.number, one.plan.rank, None, since) for one, since in ended]
        for child in self._running:
            self._ask_if_told(child, "quiesce")
            statuses = dict(child.ask(PATIENCE, "statuses"))
            processes.append(told.Process(child.plan.number, child.plan.rank, statuses))
        calls = self.calls()
        rooms = {call.room for call in calls}
        table = {room: {rank: int(status) for rank, status in self._store.collect(room).items()} for room in rooms}
        found = [*self._found, *told.check(calls, processes, table, SHARED)]
        until(lambda: sum(map(_is_alive, self._agents().values())) == 1, "one agent is left", PATIENCE)
        printed = [one.errors.read_text(errors="replace") for one in self._ended + self._running]
        errors = [text[-2000:] for text in [*printed, self._log()] if any(word in text for word in ERRORS)]
        return found + [Violation("a process printed an error", text) for text in errors]


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody has waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
