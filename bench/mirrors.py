"""Mirrors: a read compared with dict.get, and the cost of many mirrors on the server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from random import Random
from typing import Any

import redis

from bench import traffic
from bench.ground import Ground
from bench.measure import Contender, Spread, Times, interleave
from bench.peers.contest import Contest
from bench.peers.known import p99
from bench.peers.way import wait_until
from bench.results import Budget, Row, Section, compare
from redis_kvpoll import KVPoll, StatusStore

READ_BUDGET = Budget(5)
_ROOMS = 1000
_TIMES = 10
"""Repetitions over all rooms, so that the timed function takes about a millisecond."""
_SYNC_SECONDS = 30.0
_UPDATED = 50
"""Rooms per measurement of the CPU, with six calls each."""


def read(ground: Ground, rounds: int) -> Section:
    section = Section("mirror_read", "A mirrored read, in the process, beside a dict", "ours / theirs")
    rooms = ground.ids(_ROOMS)
    with ground.store("mirrored") as store:
        store.update_many(dict.fromkeys(rooms, KVPoll.Transferring))
        times = read_times(store, rooms, rounds)
    section.rows.append(compare("mirror.get", "mirror.get", "dict.get", "dict.get", times, READ_BUDGET))
    section.rows.append(
        compare("mirror.poll, 1,000 rooms", "mirror.poll", "a list of dict.get", "list", times, READ_BUDGET)
    )
    return section


def read_times(store: StatusStore, rooms: list[int], rounds: int) -> Times:
    """Read times of a mirror, and of a dict with as many rooms."""
    plain = dict.fromkeys(rooms, KVPoll.Transferring)
    some = Random(3).sample(rooms, _ROOMS)  # noqa: S311 - from all over the table
    with store.mirror() as mirror:
        wait_until(lambda: mirror.synced, _SYNC_SECONDS)
        contenders = [
            Contender("mirror.get", lambda: _gets(mirror.get, some), _ROOMS * _TIMES),
            Contender("dict.get", lambda: _gets(plain.get, some), _ROOMS * _TIMES),
            Contender("mirror.poll", lambda: [mirror.poll(some) for _ in range(_TIMES)], _ROOMS * _TIMES),
            Contender("list", lambda: [[plain.get(r) for r in some] for _ in range(_TIMES)], _ROOMS * _TIMES),
        ]
        return interleave(contenders, rounds)


def _gets(get: Any, rooms: Sequence[int]) -> None:
    for _ in range(_TIMES):
        for room in rooms:
            get(room)


def many(contest: Contest, counts: Sequence[int], changes: int, turns: int) -> list[Section]:
    """The cost and delay of many mirrors, each in its own process, as in a cluster."""
    cpu = Section(
        "mirrors_cpu", "The server's CPU for a change, with mirrors", "times that without", ours="CPU", theirs="without"
    )
    known = Section(
        "mirrors_known",
        "From a change to its being known in all mirrors' processes",
        "times that of one",
        ours="median",
        theirs="p99",
        pictured="ours",
    )
    without = _cpu(contest.ground, turns)
    first: list[float] = []
    for count in counts:
        name = "1 mirror" if count == 1 else f"{count} mirrors"
        with _followers(contest, count, changes) as (rooms, parents):
            delays = _pace(contest.ground, rooms, parents)
            costs = _cpu(contest.ground, turns)
        first = first or delays
        middle = Spread.of(delays).median
        slower = middle / Spread.of(first).median
        known.rows.append(Row(name, "", "ms", middle, p99(delays), Spread(slower, slower, slower)))
        ratios = Spread.of([a / b for a, b in zip(costs, without, strict=True)])
        cpu.rows.append(Row(name, "", "us", Spread.of(costs).median, Spread.of(without).median, ratios))
    return [cpu, known]


def _cpu(ground: Ground, turns: int) -> list[float]:
    """The server's CPU per change in microseconds, for each turn."""
    costs = []
    with ground.store("followed") as store:
        for _ in range(turns):
            calls = traffic.calls(ground.ids(_UPDATED))
            before = _used(ground)
            for room, status in calls:
                store.update_status(room, status)
            # Reads of mirrors that are behind count too.
            time.sleep(0.2)
            costs.append((_used(ground) - before) / len(calls) * 1e6)
    return costs


def _used(ground: Ground) -> float:
    found = ground.client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


Parents = list["Connection[Any, Any]"]


@contextlib.contextmanager
def _followers(contest: Contest, count: int, changes: int) -> Iterator[tuple[list[int], Parents]]:
    """Start processes with a synced mirror each; they record when they see each room's Success."""
    ground, rooms = contest.ground, contest.ground.ids(changes)
    with ground.store("followed") as store:
        store.update_many(dict.fromkeys(rooms, KVPoll.Transferring))
    parents: Parents = []
    processes = []
    try:
        for _ in range(count):
            parent, child = contest.context.Pipe()
            job = (ground.url, f"{ground.id}.followed", rooms, child)
            processes.append(contest.context.Process(target=_follow, args=job, daemon=True))
            processes[-1].start()
            child.close()
            parents.append(parent)
        for parent in parents:
            _receive(parent)
        yield rooms, parents
    finally:
        for parent in parents:
            parent.close()  # which ends the process
        for process in processes:
            process.join(5)
            process.kill()
            process.join()


def _pace(ground: Ground, rooms: list[int], parents: Parents) -> list[float]:
    """Milliseconds from each change to each process; pauses separate the changes."""
    random = Random(len(rooms))  # noqa: S311 - pauses
    starts = []
    with ground.store("followed") as store:
        for room in rooms:
            time.sleep(random.uniform(0.004, 0.008))
            starts.append(time.monotonic())
            store.update_status(room, KVPoll.Success)
    return [(end - start) * 1000 for parent in parents for start, end in zip(starts, _receive(parent), strict=True)]


def _receive(parent: Connection[Any, Any]) -> Any:
    if not parent.poll(_SYNC_SECONDS):
        raise TimeoutError("a mirror's process sends nothing")
    return parent.recv()


def _follow(url: str, namespace: str, rooms: list[int], parent: Connection[Any, Any]) -> None:
    with StatusStore(redis.Redis.from_url(url, protocol=3), namespace=namespace) as store, store.mirror() as mirror:
        wait_until(lambda: mirror.synced, _SYNC_SECONDS)
        parent.send(None)
        ends = []
        for room in rooms:
            mirror.wait(room, KVPoll.Success, timeout=_SYNC_SECONDS)
            ends.append(time.monotonic())
        parent.send(ends)
        with contextlib.suppress(EOFError):
            parent.recv()
