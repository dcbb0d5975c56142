"""How long it takes to recover the table after its server was killed with all data.

Owners, each a process with a lease and thousands of rooms, go on writing while the server is killed with SIGKILL and
started again, empty. From its first reply on, an observer counts the rooms.
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
RECOVERY_TIMEOUT = 60.0
"""Seconds after which missing rooms are counted."""
CLEARED = 10
"""One room of so many is cleared before the server is killed, and must stay absent."""


class Recovery(NamedTuple):
    """The state of one table after its recovery."""

    rooms: int
    """The rooms when the server was killed."""
    seconds: float
    """From the server's first reply until all of them exist."""
    missing: int
    recreated: int
    """Cleared rooms that exist again."""
    wrong: int
    """Rooms that are not at their owner's last status."""
    changes: int
    """Writes of the owners meanwhile."""


def measure(owners: int, rooms: int, times: int) -> Section:
    section = Section(
        "recovery", "A server killed with all data, under load: until the table is whole again", "milliseconds"
    )
    found = [recover(owners, rooms) for _ in range(times)]
    for one in found:
        if one.missing or one.recreated or one.wrong:
            raise RuntimeError(f"the table was not recovered: {one}")
    spread = Spread.of([one.seconds * 1000 for one in found])
    name = f"{owners} owners with {rooms:,} rooms each"
    section.rows.append(Row(name, "", "ms", spread.median, None, spread, BUDGET if rooms >= 10_000 else None))
    return section


def recover(owners: int, rooms: int) -> Recovery:
    """Kill a private server that ``owners`` use with so many rooms each."""
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
            expected = {room for number in range(owners) for room in _rooms(number, rooms)} - cleared
            server.restart()
            back_at = time.monotonic()
            missing = _await(observer, sorted(expected))
            seconds = time.monotonic() - back_at
            for pipe in pipes:
                pipe.send("stop")
            ends = [pipe.recv() for pipe in pipes]
            recreated = sum(status is not None for status in observer.poll(sorted(cleared)))
        finally:
            for process in processes:
                process.kill()
                process.join()
    wrong, changes = (sum(end[at] for end in ends) for at in (0, 1))
    return Recovery(len(expected), seconds, missing, recreated, wrong, changes)


def _rooms(number: int, rooms: int) -> range:
    return range(number * rooms, (number + 1) * rooms)


def _await(observer: StatusStore, absent: list[int]) -> int:
    """Wait until all rooms exist; returns how many are still absent in the end."""
    give_up_at = time.monotonic() + RECOVERY_TIMEOUT
    while absent and time.monotonic() < give_up_at:
        statuses = observer.poll(absent)
        absent = [room for room, status in zip(absent, statuses, strict=True) if status is None]
    return len(absent)


def _own(url: str, number: int, rooms: int, pipe: Connection[Any, Any]) -> None:
    """Run an owner's process."""
    rng = random.Random(number)  # noqa: S311 - load, not secrets
    with StatusStore.from_url(url, namespace=NAMESPACE) as store, store.lease(f"owner-{number}", ttl=LEASE_SECONDS):
        opened = [store.open(room) for room in _rooms(number, rooms)]
        cleared, kept = opened[::CLEARED], [room for at, room in enumerate(opened) if at % CLEARED]
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
        pipe.recv()  # the end of the lease would fail rooms that the observer still reads


def _advance(room: Room, last: dict[Room, KVPoll]) -> int:
    update = room.update(min(last[room] + 1, KVPoll.Success))
    if update.outcome is Outcome.STALE or update.status is None:
        return 0
    last[room] = update.status
    return 1
