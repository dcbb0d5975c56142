"""How long it takes until the table is whole again after its server was killed with all data.

Owners, each a process with a lease and thousands of rooms, go on working while the server is killed with SIGKILL and
started anew, empty. From the moment when it answers again, an observer counts, room by room.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from bench.measure import Spread
from bench.results import Budget, Row, Section
from redis_kvpoll import KVPoll, Outcome, Room, StatusStore
from redis_kvpoll.transport.embedded import EmbeddedServer

BUDGET = Budget(2_000)
NAMESPACE = "recovery"
LEASE_SECONDS = 5.0
PATIENCE = 60.0
"""Seconds after which a table that is not whole will never be."""
CLEARED = 10
"""One room of so many is cleared before the server is killed, and must stay away."""


class Recovery(NamedTuple):
    """What became of one table."""

    rooms: int
    """That were held when the server was killed."""
    seconds: float
    """From the server's first answer to all of them being there."""
    missing: int
    revived: int
    """Rooms that had been cleared."""
    wrong: int
    """Rooms that are not at the status which their owner was last told."""
    changes: int
    """Writes that the owners made all the while."""


def measure(owners: int, rooms: int, times: int) -> Section:
    section = Section(
        "recovery", "A server killed with all data, under load: until the table is whole again", "milliseconds"
    )
    found = [recover(owners, rooms) for _ in range(times)]
    for one in found:
        if one.missing or one.revived or one.wrong:
            raise RuntimeError(f"the table is not what it was: {one}")
    spread = Spread.of([one.seconds * 1000 for one in found])
    name = f"{owners} owners with {rooms:,} rooms each"
    section.rows.append(Row(name, "", "ms", spread.median, None, spread, BUDGET if rooms >= 10_000 else None))
    return section


def recover(owners: int, rooms: int) -> Recovery:
    """Kill a private server under ``owners`` with so many rooms each."""
    context = multiprocessing.get_context("spawn")
    with EmbeddedServer() as server, StatusStore.from_url(server.url, namespace=NAMESPACE) as observer:
        pipes: list[Connection[Any, Any]] = []
        processes = []
        for number in range(owners):
            ours, theirs = context.Pipe()
            process = context.Process(target=_own, args=(server.url, number, rooms, theirs), daemon=True)
            process.start()
            pipes.append(ours)
            processes.append(process)
        try:
            cleared = {room for pipe in pipes for room in pipe.recv()}
            held = {room for number in range(owners) for room in _rooms(number, rooms)} - cleared
            server.restart()
            back_at = time.monotonic()
            missing = _await(observer, sorted(held))
            seconds = time.monotonic() - back_at
            for pipe in pipes:
                pipe.send("enough")
            ends = [pipe.recv() for pipe in pipes]
            revived = sum(status is not None for status in observer.poll(sorted(cleared)))
        finally:
            for process in processes:
                process.kill()
                process.join()
    wrong, changes = (sum(end[at] for end in ends) for at in (0, 1))
    return Recovery(len(held), seconds, missing, revived, wrong, changes)


def _rooms(number: int, rooms: int) -> range:
    return range(number * rooms, (number + 1) * rooms)


def _await(observer: StatusStore, held: list[int]) -> int:
    """Count until all are there; how many are not, in the end."""
    give_up_at = time.monotonic() + PATIENCE
    while held and time.monotonic() < give_up_at:
        statuses = observer.poll(held)
        held = [room for room, status in zip(held, statuses, strict=True) if status is None]
    return len(held)


def _own(url: str, number: int, rooms: int, pipe: Connection[Any, Any]) -> None:
    """An owner's process."""
    rng = random.Random(number)  # noqa: S311 - load, not secrets
    with StatusStore.from_url(url, namespace=NAMESPACE) as store, store.lease(f"owner-{number}", ttl=LEASE_SECONDS):
        held = [store.open(room) for room in _rooms(number, rooms)]
        cleared, kept = held[::CLEARED], [room for at, room in enumerate(held) if at % CLEARED]
        for room in cleared:
            room.clear()
        last = dict.fromkeys(kept, KVPoll.Bootstrapping)
        pipe.send([room.id for room in cleared])
        changes = 0
        while not pipe.poll():
            room = rng.choice(kept)
            changes += _advance(room, last)
        pipe.recv()
        statuses = store.poll(room.id for room in kept)
        pipe.send((sum(last[room] is not status for room, status in zip(kept, statuses, strict=True)), changes))
        pipe.recv()  # the observer has yet to look: to leave is to fail the rooms


def _advance(room: Room, last: dict[Room, KVPoll]) -> int:
    update = room.update(min(last[room] + 1, KVPoll.Success))
    if update.outcome is Outcome.STALE or update.status is None:
        return 0
    last[room] = update.status
    return 1
