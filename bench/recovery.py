"""How long it takes to recover the table after its server was killed with all data.

Owners, each a process with a lease and thousands of rooms, go on writing while the server is killed with SIGKILL and
started again, empty. From its first reply on, an observer counts the rooms: a hundredth of them until these are there,
then all that it has not seen yet, so that its own polls are no load to speak of. Then the same processes write the same
rooms plainly to the same server, all at once and without any: by ``update_many``, into another namespace.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from bench.measure import Spread, ratio
from bench.results import Budget, Row, Section
from redis_kvpoll import KVPoll, Outcome, Room, StatusStore
from redis_kvpoll.transport.embedded import EmbeddedServer

WHOLE_MS = Budget(1_000)
BESIDE_PLAIN = Budget(3)
FULL_ROOMS = 10_000
"""Rooms of an owner from which on the budgets hold."""
NAMESPACE = "recovery"
PLAIN_NAMESPACE = "plain"
LEASE_SECONDS = 5.0
BATCH = 1000
"""Rooms in a plain call."""
RECOVERY_TIMEOUT = 60.0
"""Seconds after which missing rooms are counted."""
SAMPLED = 100
"""One room of so many is polled until all of these exist."""
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
    plain_seconds: float
    """Until the owners had written the same rooms plainly."""


def measure(owners: int, rooms: int, times: int) -> list[Section]:
    """The time, and its ratio to writing the same rooms plainly in the same run."""
    found = [recover(owners, rooms) for _ in range(times)]
    for one in found:
        if one.missing or one.recreated or one.wrong:
            raise RuntimeError(f"the table was not recovered: {one}")
    ours, plain = [1000 * one.seconds for one in found], [1000 * one.plain_seconds for one in found]
    spread, theirs = Spread.of(ours), Spread.of(plain).median
    name = f"{owners} owners with {rooms:,} rooms each"
    whole_ms, beside_plain = (WHOLE_MS, BESIDE_PLAIN) if rooms >= FULL_ROOMS else (None, None)
    title = "A server killed with all data, under load: until the table is whole again"
    whole = Section("recovery", title, "milliseconds")
    whole.rows.append(Row(name, "", "ms", spread.median, None, spread, whole_ms))
    beside = Section("recovery_beside", f"{title}, beside writing the same rooms plainly", "ours / theirs")
    beside.rows.append(Row(name, "update_many", "ms", spread.median, theirs, ratio(ours, plain), beside_plain))
    return [whole, beside]


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
            plain_seconds = _write_plainly(pipes)
        finally:
            for process in processes:
                process.kill()
                process.join()
    wrong, changes = (sum(end[at] for end in ends) for at in (0, 1))
    return Recovery(len(expected), seconds, missing, recreated, wrong, changes, plain_seconds)


def _write_plainly(pipes: list[Connection[Any, Any]]) -> float:
    """Let all owners write their rooms plainly; returns how long it took."""
    began = time.monotonic()
    for pipe in pipes:
        pipe.send("write")
    for pipe in pipes:
        pipe.recv()
    return time.monotonic() - began


def _rooms(number: int, rooms: int) -> range:
    return range(number * rooms, (number + 1) * rooms)


def _await(observer: StatusStore, absent: list[int]) -> int:
    """Wait until all rooms exist; returns how many are still absent in the end."""
    give_up_at = time.monotonic() + RECOVERY_TIMEOUT
    for watched in (absent[::SAMPLED], absent):
        absent = watched
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
        with StatusStore.from_url(url, namespace=PLAIN_NAMESPACE) as plain:
            plain.counts()  # connects
            pipe.send((sum(last[room] is not status for room, status in zip(kept, statuses, strict=True)), changes))
            pipe.recv()
            for at in range(0, len(kept), BATCH):
                plain.update_many({room.id: KVPoll.Bootstrapping for room in kept[at : at + BATCH]})
            pipe.send("written")
            pipe.recv()  # the end of the lease would fail rooms that the observer still reads


def _advance(room: Room, last: dict[Room, KVPoll]) -> int:
    update = room.update(min(last[room] + 1, KVPoll.Success))
    if update.outcome is Outcome.STALE or update.status is None:
        return 0
    last[room] = update.status
    return 1
