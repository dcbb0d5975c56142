"""What the plugin takes from SGLang's scheduler, rounds of its loop and CPU of its process; and its agent's CPU."""

from __future__ import annotations

from bench.measure import Spread
from bench.results import Budget, Row, Section
from bench.sglang.processes import WorkerProcess, agent_seconds

PLAIN, THREAD, AGENT = "dict", "thread", "agent"
RATES = (50, 200, 500)
"""Requests a second."""
ROUNDS_BUDGET, CPU_BUDGET = Budget(0.97, at_least=True), Budget(60.0)
"""Of the agent. The thread is what it has replaced."""


def measure(worker: WorkerProcess, rounds: int, seconds: float) -> list[Section]:
    """Return the sections: the ways in turn, ``rounds`` times each, for so many seconds."""
    lost = Section("sglang_rounds", "Rounds of a scheduler's loop beside requests", "ours / theirs", theirs="dict")
    cpu = Section("sglang_cpu", "CPU of SGLang's process beyond the dict's, a request", "µs", ours="median")
    agent = Section("sglang_agent", "The agent's CPU beside that loop", "cores", ours="median")
    ways = (PLAIN, THREAD, AGENT)
    for rate in RATES:
        found: dict[str, list[tuple[float, float]]] = {how: [] for how in ways}
        taken = []
        for number in range(-1, rounds):  # the first is to warm up
            for how in ways if number % 2 else reversed(ways):
                before = agent_seconds()
                result = worker.call("rounds", how, rate, seconds if number >= 0 else seconds / 4)
                if number >= 0:
                    found[how].append(result)
                    if how == AGENT:
                        taken.append(max(1e-3, (agent_seconds() - before) / seconds))
        plain = found[PLAIN]
        for how in (THREAD, AGENT):
            pairs = list(zip(found[how], plain, strict=True))
            name = f"{how}, {rate} requests/s"
            kept = Spread.of([ours[0] / theirs[0] for ours, theirs in pairs])
            ours, theirs = (Spread.of([rounds for rounds, _ in some]).median for some in (found[how], plain))
            rounds_budget, cpu_budget = (ROUNDS_BUDGET, CPU_BUDGET) if how == AGENT else (None, None)
            lost.rows.append(Row(name, "SGLang's dicts", "per_second", ours, theirs, kept, rounds_budget))
            requests = int(rate * seconds)
            more = Spread.of([max(1e-3, (ours[1] - theirs[1]) / requests * 1e6) for ours, theirs in pairs])
            cpu.rows.append(Row(name, "", "us", more.median, None, more, cpu_budget))
        cores = Spread.of(taken)
        agent.rows.append(Row(f"{rate} requests/s", "", "ratio", cores.median, None, cores))
    return [lost, cpu, agent]
