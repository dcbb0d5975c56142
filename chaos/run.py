"""One run: workers make calls, faults are injected one after the other, and the history is checked."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from chaos import checker, fenced, handles, history, holding, recording
from chaos.faults import KILL, Fault
from chaos.history import CallRecord, FaultEvent, History
from chaos.pool import WorkerPool
from chaos.scenarios import NAMESPACE, Scenario, Setup
from chaos.standstill import Standstills
from chaos.violations import Violation
from chaos.worker import Plan
from redis_kvpoll import StatusStore
from redis_kvpoll.protocol import keys

WORKERS = 4
DEADLINE = 5.0
TTL = 1800.0
"""Seconds: no room expires in a run, so none may be missing."""
AFTERWARDS = 0.4
"""Seconds for which workers go on after the last fault."""
SETTLE_SECONDS = 60.0
"""The longest that a failover may still take after that: on a busy machine Sentinel needs more than a DEADLINE."""


@dataclass
class RunResult:
    """What one run found."""

    name: str
    seed: int
    seconds: float
    faults: Counter[str]
    operations: int
    errors: Counter[str]
    """The errors that operations ended with, by class; without those that are a call's answer."""
    violations: list[Violation]
    longest_wait: float
    history: History


def run(name: str, scenario: Scenario, seconds: float, seed: int) -> RunResult:
    """Run a scenario."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, scenario.make(Path(folder)) as setup:
        start = time.monotonic()
        plan = Plan(
            number=-1,
            url=setup.url,
            file="",
            seed=f"{seed} {name}",
            start=start,
            is_async=False,
            deadline=DEADLINE,
            ttl=TTL,
            shards=setup.shards,
            feed_length=setup.feed_length,
            lease=setup.lease,
            is_holding=setup.is_holding,
            mirrors=setup.mirrors,
            followers=setup.followers,
        )
        workers = WorkerPool(Path(folder), plan, 0 if setup.engine else WORKERS, setup.has_plain)
        with Standstills() as standstills, workers as pool:
            chance = random.Random(f"{seed} {name}")  # noqa: S311 - chance, not secrets
            events = inject_faults(setup, pool, chance, seconds)
            pool.quiesce()
            events += standstills.events
            if setup.engine:
                violations = setup.engine.check() + checker.check_end({}, {}, ttls(setup), TTL)
                found_history = History(setup.engine.calls(), events, DEADLINE)
            else:
                found_history, violations = _check(setup, pool, events, start)
    failures = {(call.worker, call.began): checker.failure(call) for call in found_history.calls}
    return RunResult(
        name,
        seed,
        time.monotonic() - began,
        Counter(event.name for event in events),
        len(failures),
        Counter(filter(None, failures.values())),
        violations,
        checker.longest_wait(found_history),
        found_history,
    )


def _check(setup: Setup, pool: WorkerPool, events: list[FaultEvent], start: float) -> tuple[History, list[Violation]]:
    """Read the table and the mirrors once all calls have ended, and check the history and the final state."""
    rooms = list(range(recording.rooms_at(time.monotonic() - start)[-1] + 1))
    killed = deaths(events)
    hit = {recording.owner(event.worker) for event in events if event.worker is not None}
    reaped_at = max(killed.values(), default=0.0) + setup.lease + fenced.RECOVERY_SECONDS
    recovered_at = max((event.ended for event in events if event.loses), default=0.0) + fenced.RECOVERY_SECONDS
    time.sleep(max(0.0, reaped_at - time.monotonic(), recovered_at - time.monotonic()))
    held = sorted({call.room for call in pool.calls() if call.room >= holding.FIRST})
    reads = read_table(setup, rooms, [handles.FIRST + room for room in rooms] + held)
    copies = pool.copies(rooms)
    # Read once more: workers have recorded what they hold.
    found_history = History([*pool.calls(), *reads], events, DEADLINE, pool.plain_calls())
    found = checker.check(found_history, setup.refusals, lambda room: keys.tag(NAMESPACE, setup.shards, room))
    found += fenced.outlived_leases(reads, killed, setup.lease) + fenced.false_expiries(reads, hit)
    table = {read.room: read.answer for read in reads if read.name == "poll"}
    found += checker.check_end(table, copies, ttls(setup), TTL)
    found += [Violation("a worker printed an error", text) for text in pool.error_output()]
    return found_history, found


def inject_faults(setup: Setup, pool: WorkerPool, chance: random.Random, seconds: float) -> list[FaultEvent]:
    """Inject faults in random order until the time is up, each at least once."""
    events: list[FaultEvent] = []
    until = time.monotonic() + seconds
    queue: list[Fault] = []
    while time.monotonic() < until or len(events) < len(setup.faults):
        queue = queue or chance.sample(setup.faults, len(setup.faults))
        fault = queue.pop()
        time.sleep(chance.uniform(*setup.pause))
        began = time.monotonic()
        injected = fault.inject(chance, pool)
        ended = time.monotonic()
        event = FaultEvent(fault.name, began, ended, injected.worker, fault.outage, fault.loses)
        events.append(event._replace(triggers_recovery=fault.triggers_recovery, kept_until=injected.kept_until))
    time.sleep(AFTERWARDS)
    return events


def deaths(events: list[FaultEvent]) -> dict[str, float]:
    """When each killed owner was killed, or when the last outage since then ended: during one, nobody sweeps leases."""
    outages = [event.ended for event in events if event.outage and event.worker is None]
    return {
        recording.owner(event.worker): max([event.began, *(end for end in outages if end > event.began)])
        for event in events
        if event.worker is not None and event.name == KILL
    }


def read_table(setup: Setup, rooms: list[int], opened: list[int]) -> list[CallRecord]:
    """The observer's reads of the final table, as part of the history; ``opened`` are the rooms of handles."""
    reads = []
    with StatusStore.from_url(setup.direct, namespace=NAMESPACE, deadline=SETTLE_SECONDS) as patient:
        patient.poll(rooms[:1])
    with StatusStore.from_url(setup.direct, namespace=NAMESPACE, deadline=DEADLINE) as store:
        began = time.monotonic()
        statuses = [None if status is None else int(status) for status in store.poll(rooms)]
        ended = time.monotonic()
        for room, status in zip(rooms, statuses, strict=True):
            reads.append(CallRecord(history.OBSERVER, "poll", room, None, status, "", began, ended))
        for room in opened:
            began = time.monotonic()
            entry = store.entry(room)
            answer, generation = handles.entry_answer([room], entry)[room], handles.entry_generation(entry)
            ended = time.monotonic()
            reads.append(CallRecord(history.OBSERVER, "entry", room, None, answer, "", began, ended, generation))
    return reads


def ttls(setup: Setup) -> dict[str, int]:
    """The milliseconds that each key of the table has left."""
    found = {}
    for client in setup.primaries():
        for key in client.scan_iter("kvpoll:*", count=1000):
            left = client.pttl(key)
            if left != -2:  # it has just expired
                found[key] = left
    return found
