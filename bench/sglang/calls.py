"""One process: sender.poll() and a request's life, with the plugin and on SGLang's own dicts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bench.ground import Ground
from bench.measure import Spread, Times
from bench.results import Budget, Row, Section, compare
from bench.sglang.moments import soon, wait_until_seen
from bench.sglang.processes import WorkerProcess
from redis_kvpoll import KVPoll, StatusStore

PLAIN, PLUGIN = "dict", "plugin"
POLL_BUDGET = Budget(1.2)
PUBLISHED_BUDGET = Budget(8.0)
_THEIRS = "SGLang's dicts"


def measure(worker: WorkerProcess, rounds: int, lives: tuple[int, int]) -> list[Section]:
    """Return the sections. ``lives``: how many requests, without pauses and with time between their steps."""
    poll = Section("sglang_poll", "sender.poll(), a call", "ours / theirs", ours="plugin", theirs="dict")
    times = worker.call("polls", rounds)
    for status in ("Bootstrapping", "Transferring"):
        name = f"sender.poll(), {status}"
        poll.rows.append(compare(name, f"{status} {PLUGIN}", _THEIRS, f"{status} {PLAIN}", times, POLL_BUDGET))
    title = f"A request's life, {worker.call('operations')} table operations"
    life = Section("sglang_life", f"{title}, in SGLang's thread", "ours / theirs", ours="plugin", theirs="dict")
    link = Section("sglang_link", "CPU of the plugin's thread, a request", "µs", ours="median")
    for name, count, is_paced in (("one after the other", lives[0], False), ("paced", lives[1], True)):
        found = worker.call("lives", rounds if not is_paced else max(3, rounds // 5), count, is_paced)
        life.rows.append(compare(name, PLUGIN, _THEIRS, PLAIN, found["clock"]))
        life.rows.append(compare(f"{name}, CPU", PLUGIN, _THEIRS, PLAIN, found["own"]))
        link.rows.append(_alone(name, _beyond(found["beside"])))
    link.rows.append(_alone("none, for a second", [worker.call("idle", 0.5) for _ in range(3)]))
    return [poll, life, link]


def publishing(ground: Ground, worker: WorkerProcess, namespace: str, count: int) -> Section:
    """Measure the time from a write until another process finds it in the table, one write at a time."""
    section = Section("sglang_published", "From SGLang's write until the table has it", "milliseconds", ours="median")
    opened, advanced = [], []
    with StatusStore(ground.plain(), namespace=namespace) as store:

        def is_at(room: int, status: KVPoll) -> bool:
            return store.get(room) is status

        for room in ground.ids(count):
            worker.send("open_at", room, soon())
            there = wait_until_seen(partial(is_at, room, KVPoll.Bootstrapping))
            opened.append((there - worker.receive()) * 1000)
            worker.send("advance_at", soon())
            there = wait_until_seen(partial(is_at, room, KVPoll.WaitingForInput))
            advanced.append((there - worker.receive()) * 1000)
            worker.call("end")
    for name, delays in (("a room is opened", opened), ("a room is advanced", advanced)):
        spread = Spread.of(delays)
        section.rows.append(Row(name, "", "ms", spread.median, None, spread, PUBLISHED_BUDGET))
    return section


def _beyond(beside: Times) -> list[float]:
    """Return the plugin's part of the CPU time outside SGLang's thread: SGLang's other threads take some too."""
    return [max(ours - theirs, 1e-9) for ours, theirs in zip(beside[PLUGIN], beside[PLAIN], strict=True)]


def _alone(name: str, seconds: Sequence[float]) -> Row:
    spread = Spread.of([figure * 1e6 for figure in seconds])
    return Row(name, "", "us", spread.median, None, spread)
