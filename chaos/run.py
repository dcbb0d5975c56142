"""One run: workers at work, one injury after the other, and then the verdict on what they saw."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from chaos import checker, fenced, handles, history, notes
from chaos.crew import Crew
from chaos.faults import KILL, Injury
from chaos.history import Done, Fault, History
from chaos.scenarios import NAMESPACE, Field, Scenario
from chaos.violations import Violation
from chaos.worker import Plan
from redis_kvpoll import StatusStore
from redis_kvpoll.protocol import keys

WORKERS = 4
DEADLINE = 5.0
TTL = 1800.0
"""Seconds: no room expires in a run, so none may be missing."""
CALM = (0.1, 0.4)
"""Seconds between injuries."""


@dataclass
class Verdict:
    """What one run came to."""

    name: str
    seconds: float
    faults: Counter[str]
    operations: int
    errors: Counter[str]
    """The errors that operations ended with, by their class; those of a wait that say how it went are none."""
    violations: list[Violation]
    longest_wait: float
    history: History


def run(name: str, scenario: Scenario, seconds: float, seed: int) -> Verdict:
    """Carry a scenario out."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, scenario.make(Path(folder)) as field:
        start = time.monotonic()
        plan = Plan(
            -1,
            field.url,
            "",
            f"{seed} {name}",
            start,
            False,
            DEADLINE,
            TTL,
            field.shards,
            field.feed_length,
            field.lease,
        )
        with Crew(Path(folder), plan, WORKERS) as crew:
            chance = random.Random(f"{seed} {name}")  # noqa: S311 - chance, not secrets
            faults = injure(field.injuries, crew, chance, seconds)
            crew.quiet()
            rooms = list(range(notes.rooms_at(time.monotonic() - start)[-1] + 1))
            killed = deaths(faults)
            hurt = {notes.owner(fault.worker) for fault in faults if fault.worker is not None}
            time.sleep(max(0.0, max(killed.values(), default=0.0) + field.lease + fenced.RESTORED - time.monotonic()))
            looks = look(field, rooms)
            copies = crew.copies(rooms)
            kept = History([*crew.calls(), *looks], faults, DEADLINE)
            found = checker.check(kept, field.refusals, lambda room: keys.tag(NAMESPACE, field.shards, room))
            found += fenced.lives_on(looks, killed, field.lease) + fenced.taken_for_dead(looks, hurt)
            found += checker.check_end({d.room: d.answer for d in looks if d.name == "poll"}, copies, ttls(field), TTL)
            found += [Violation("a worker complained", text) for text in crew.complaints()]
    made = {(done.worker, done.began): checker.failure(done) for done in kept.calls}
    return Verdict(
        name,
        time.monotonic() - began,
        Counter(fault.name for fault in faults),
        len(made),
        Counter(filter(None, made.values())),
        found,
        checker.longest_wait(kept),
        kept,
    )


def injure(injuries: list[Injury], crew: Crew, chance: random.Random, seconds: float) -> list[Fault]:
    """Inflict them in turn, in an order by lot, each at least once, until the time is up."""
    faults: list[Fault] = []
    until = time.monotonic() + seconds
    turn: list[Injury] = []
    while time.monotonic() < until or len(faults) < len(injuries):
        turn = turn or chance.sample(injuries, len(injuries))
        injury = turn.pop()
        time.sleep(chance.uniform(*CALM))
        began = time.monotonic()
        hit = injury.inflict(chance, crew)
        faults.append(Fault(injury.name, began, time.monotonic(), hit, injury.outage, injury.loses, injury.anew))
    time.sleep(CALM[1])
    return faults


def deaths(faults: list[Fault]) -> dict[str, float]:
    """When each owner that was killed died; or when the last outage since then ended, in which nobody looks."""
    outages = [fault.ended for fault in faults if fault.outage and fault.worker is None]
    return {
        notes.owner(fault.worker): max([fault.began, *(end for end in outages if end > fault.began)])
        for fault in faults
        if fault.worker is not None and fault.name == KILL
    }


def look(field: Field, rooms: list[int]) -> list[Done]:
    """The table as it is when all is quiet, as one more part of the history."""
    looks = []
    with StatusStore.from_url(field.direct, namespace=NAMESPACE, deadline=DEADLINE) as store:
        began = time.monotonic()
        statuses = [None if status is None else int(status) for status in store.poll(rooms)]
        ended = time.monotonic()
        for room, status in zip(rooms, statuses, strict=True):
            looks.append(Done(history.JUDGE, "poll", room, None, status, "", began, ended))
        for room in (handles.FIRST + room for room in rooms):
            began = time.monotonic()
            entry = store.entry(room)
            answer, generation = handles.entry_answer([room], entry)[room], handles.entry_generation(entry)
            looks.append(Done(history.JUDGE, "entry", room, None, answer, "", began, time.monotonic(), generation))
    return looks


def ttls(field: Field) -> dict[str, int]:
    """What every key of the table has left, in milliseconds."""
    found = {}
    for client in field.primaries():
        for key in client.scan_iter("kvpoll:*", count=1000):
            left = client.pttl(key)
            if left != -2:  # expired just now
                found[key] = left
    return found
