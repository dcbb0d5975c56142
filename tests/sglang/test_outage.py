"""Redis killed or unreachable while requests are served: no request ends differently."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from chaos.servers import Server
from redis_kvpoll import KVPoll, StatusStore
from tests.sglang.conftest import Tables
from tests.sglang.deployment import Deployment, Host, Worker, until
from tests.sglang.outcomes import BROKEN, breaks, is_aborted
from tests.support.real import free_port

REQUESTS = 1000
WINDOW = 25
SERVING_SECONDS = 60.0
KEPT = list(range(10_001, 10_101))
"""Rooms that stay open through a whole test."""
KEPT_STATUSES = list(itertools.islice(itertools.cycle((1, 2, 3, 4)), len(KEPT)))


@pytest.fixture
def on_own_server(
    host: Host, own_server: Server, plugin_environment: Callable[[Server], dict[str, str]]
) -> Iterator[Deployment]:
    with Deployment(host, plugin_environment(own_server)) as deployment:
        yield deployment


@pytest.fixture
def own_tables(own_server: Server, namespace: str) -> Iterator[dict[str, StatusStore]]:
    with Tables(own_server, namespace) as tables:
        yield tables


def serve(workers: tuple[Worker, Worker], first: int, count: int) -> list[int]:
    rooms = list(range(first, first + count))
    for worker in workers:
        worker.serve(rooms, WINDOW)
    return rooms


def until_ended(workers: tuple[Worker, Worker], count: int) -> None:
    """Wait until so many have ended on both sides."""
    for worker in workers:
        until(lambda worker=worker: worker.served() >= count, True, SERVING_SECONDS)


def check(workers: tuple[Worker, Worker], rooms: list[int]) -> None:
    """Wait until all have ended, as planned and without an exception."""
    until_ended(workers, len(rooms))
    for worker in workers:
        results = worker.results()
        assert results["errors"] + worker.errors() == []
        statuses = {int(room): (status, reason) for room, (status, reason) in results["ended"].items()}
        assert {room: status for room, (status, _) in statuses.items()} == {
            room: KVPoll.Failed if breaks(room) or is_aborted(room) else KVPoll.Success for room in rooms
        }
        reasons = {reason for room, (_, reason) in statuses.items() if breaks(room)}
        assert reasons == {BROKEN}
        assert worker.get(*rooms) == [None] * len(rooms)


def open_kept(workers: tuple[Worker, Worker]) -> None:
    """Open rooms at all statuses, on both sides."""
    prefill, decode = workers
    for worker in workers:
        worker.open(*KEPT)
    for room, status in zip(KEPT, KEPT_STATUSES, strict=True):
        prefill.update(room, status)
        decode.update(room, status)


def until_complete(workers: tuple[Worker, Worker], tables: dict[str, StatusStore], seconds: float) -> None:
    """Wait until each process's table has exactly its rooms, with their statuses."""
    for role, worker in zip(("prefill", "decode"), workers, strict=True):
        here = worker.get(*KEPT)
        assert None not in here
        until(lambda role=role: tables[role].poll(KEPT), here, seconds)
        until(lambda role=role: sum(tables[role].counts().values()), len(KEPT), seconds)


def clear_all(workers: tuple[Worker, Worker], tables: dict[str, StatusStore]) -> None:
    for role, worker in zip(("prefill", "decode"), workers, strict=True):
        worker.clear(*KEPT)
        until(lambda role=role: list(tables[role].rooms()), [])
        assert worker.leftovers() == []
        assert worker.errors() == []


def test_requests_without_plugin_end_as_planned(without_plugin: Deployment) -> None:
    workers = without_plugin.pair()
    check(workers, serve(workers, 0, REQUESTS))


def test_requests_survive_redis_killed_and_back_empty(
    on_own_server: Deployment, own_server: Server, own_tables: dict[str, StatusStore]
) -> None:
    workers = on_own_server.pair()
    open_kept(workers)
    until_complete(workers, own_tables, 5.0)
    rooms = serve(workers, 0, REQUESTS)
    until_ended(workers, REQUESTS // 3)
    own_server.kill()
    own_server.forget()
    until_ended(workers, REQUESTS // 2)
    own_server.start()
    check(workers, rooms)
    until_complete(workers, own_tables, 10.0)
    clear_all(workers, own_tables)


def test_requests_survive_a_long_outage(
    on_own_server: Deployment, own_server: Server, own_tables: dict[str, StatusStore]
) -> None:
    workers = on_own_server.pair()
    open_kept(workers)
    until_complete(workers, own_tables, 5.0)
    own_server.kill()
    away_since = time.monotonic()
    check(workers, serve(workers, 0, REQUESTS))
    time.sleep(max(0.0, 20.0 - (time.monotonic() - away_since)))  # longer than the lease and the deadline
    check(workers, serve(workers, REQUESTS, 100))
    for worker in workers:
        assert len(worker.logged(level="WARNING")) == 1
        assert worker.logged(level="ERROR") == []
    own_server.forget()
    own_server.start()
    check(workers, serve(workers, 2 * REQUESTS, 100))
    until_complete(workers, own_tables, 10.0)
    clear_all(workers, own_tables)


def test_pipeline_during_outage_reaches_consensus(
    on_own_server: Deployment, own_server: Server, own_tables: dict[str, StatusStore]
) -> None:
    processes = ({"role": "prefill", "pp_size": 2, "pp_rank": rank} for rank in (0, 1))
    first, second = workers = on_own_server.start(*processes, port=free_port())
    before, meanwhile = 1, 2
    for worker in workers:
        worker.open(before)
    until(lambda: first.collect(before), [KVPoll.Bootstrapping] * 2)
    own_server.kill()
    until(lambda: len(first.logged(level="WARNING")), 1)
    for worker in workers:
        worker.open(meanwhile)
        for room in (before, meanwhile):
            worker.update(room, KVPoll.Transferring)
    for room in (before, meanwhile):
        until(lambda room=room: first.consensus(room), KVPoll.Transferring)
    own_server.forget()
    own_server.start()

    def found() -> list[KVPoll | None]:
        for room in (before, meanwhile):
            assert first.consensus(room) == KVPoll.Transferring
        return own_tables["prefill"].poll([before, meanwhile])

    until(found, [KVPoll.Transferring] * 2, SERVING_SECONDS)
    for room in (before, meanwhile):
        for worker in workers:
            worker.update(room, KVPoll.Success)
        until(lambda room=room: first.consensus(room), KVPoll.Success)
        for worker in workers:
            worker.clear(room)
    until(lambda: list(own_tables["prefill"].rooms()), [])
    assert first.errors() + second.errors() == []
